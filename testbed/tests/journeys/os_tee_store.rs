//! The key store in the TEE of the reference board that has one, under QEMU: what it keeps, whom it answers, and what a board does
//! that lost it.

use std::path::PathBuf;

use testbed::{Machine, guest, images::Order, medium::Medium};

use crate::{
    os::{self, ANSWER, BOOT, DEVELOPMENT, STARTED, boot_record, failed_units, until_shell},
    os_tee::owners,
    site::{FIRST, Release, Site},
};

const BOARD: &str = "qemu-arm64";

/// The commands of the key store that these tests ask (`docs/formats/key-store.md`).
const MAKE_RECORD: u32 = 0;
const FLOOR: u32 = 1;
const RAISE_FLOOR: u32 = 2;
const FACTORY: u32 = 3;
const RECORD_FACTORY: u32 = 4;
const NEW_STATE_KEY: u32 = 5;
const STATE_KEY: u32 = 6;
/// Its results.
const DENIED: &str = "ffff0001";
const CONFLICT: &str = "ffff0003";
const NO_DATA: &str = "ffff000b";

/// What the initrd says of a key store that was there once.
const LOST: &str = "the key store is lost or damaged, and this device is not new";

fn build() -> PathBuf {
    owners(DEVELOPMENT)
}

/// Turns a board on and waits for its shell; what the initrd said of slot and state.
fn start(machine: &mut Machine) -> String {
    machine.power_on().unwrap();
    let started = machine.until_says(STARTED, BOOT).unwrap();
    until_shell(machine);
    started
}

/// What the key store answers to a command: its result, and the first word of an answer.
fn ask(machine: &mut Machine, command: u32, word: u32) -> String {
    machine.shell(&format!("/tmp/ask_key_store {command} {word}"), ANSWER).unwrap()
}

#[test]
fn os_tee_a_board_opens_its_state_with_a_key_that_the_tee_gives_to_the_initrd_alone() {
    let (build, folder) = (build(), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    assert!(start(&mut machine).contains("state created"));
    assert_eq!(boot_record(&mut machine)["floor"], 0);
    machine.shell("echo kept > /state/note && sync", ANSWER).unwrap();
    machine.cut_power().unwrap();

    assert!(start(&mut machine).contains("state open"));
    assert!(machine.shell("cat /state/note", ANSWER).unwrap().contains("kept"));
    // But for the factory step, which was interrupted.
    assert_eq!(failed_units(&mut machine, "mbl-factory.service"), "");
    let program = guest::bring(&mut machine, "ask_key_store").unwrap();
    for command in [MAKE_RECORD, NEW_STATE_KEY, STATE_KEY] {
        assert_eq!(ask(&mut machine, command, 0), DENIED, "root gets an answer to {command}");
    }
    // The agent's user, who may talk to the driver for the token.
    let as_agent = format!("setpriv --reuid 800 --regid 800 --groups 806 {program} {FLOOR}");
    assert!(machine.shell(&as_agent, ANSWER).unwrap().starts_with(&format!("{DENIED} at the door")));
}

#[test]
fn os_tee_a_floor_that_was_raised_stays_and_an_image_below_it_does_not_start() {
    let (build, folder) = (build(), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    start(&mut machine);
    guest::bring(&mut machine, "ask_key_store").unwrap();
    assert_eq!(ask(&mut machine, FLOOR, 0), "00000000 00000000");
    for (raised, floor) in [(3, "00000000 00000003"), (1, "00000000 00000003")] {
        assert!(ask(&mut machine, RAISE_FLOOR, raised).starts_with("00000000"));
        assert_eq!(ask(&mut machine, FLOOR, 0), floor, "after a wish for {raised}");
    }
    assert_eq!(ask(&mut machine, FACTORY, 0), NO_DATA);
    assert!(ask(&mut machine, RECORD_FACTORY, 7).starts_with("00000000"));
    assert_eq!(ask(&mut machine, RECORD_FACTORY, 8), CONFLICT);
    assert_eq!(ask(&mut machine, FACTORY, 0), "00000000 00000007");
    machine.cut_power().unwrap();

    machine.power_on().unwrap();
    let said = machine.until_says_one(&["mbl-init: refused", STARTED], BOOT).unwrap();
    assert!(said.contains("security version 1 is below the floor 3"), "{said}");
}

#[test]
fn os_tee_a_board_whose_key_store_is_damaged_or_lost_says_so_and_does_not_start_as_a_new_one() {
    let (build, folder) = (build(), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    start(&mut machine);
    let damage = "for file in /run/tee/dirf.db /run/tee/[0-9]*; do head -c 4096 /dev/urandom | dd of=$file conv=notrunc; done; sync";
    machine.shell(damage, ANSWER).unwrap();
    machine.cut_power().unwrap();
    machine.power_on().unwrap();
    // Twice: it restarts by itself, and what OP-TEE found damaged it may have deleted.
    for _ in 0..2 {
        let said = machine.until_says_one(&[LOST, STARTED], BOOT).unwrap();
        assert!(said.contains(LOST), "{said}");
    }
    machine.cut_power().unwrap();

    Medium::of(BOARD, &machine.disk()).unwrap().overwrite("tee", 0, &[0; 16 << 20]).unwrap();
    machine.power_on().unwrap();
    let said = machine.until_says_one(&[LOST, STARTED], BOOT).unwrap();
    assert!(said.contains(LOST), "{said}");
}

#[test]
fn os_tee_a_board_registers_with_a_key_that_was_born_in_the_tee_and_an_update_raises_its_floor() {
    let mut site = Site::provisioned(&build());
    site.machine.power_on().unwrap();
    site.until_runs(FIRST, "a");
    let newer = owners(Order { version: "1.1.0", security_version: 2, ..DEVELOPMENT });
    let release = Release { security_version: 2, raises_floor: true, ..Release::of_os("1.1.0", &newer) };
    let rollout = site.roll_out(&release);
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");
    site.until_shell();
    guest::bring(&mut site.machine, "ask_key_store").unwrap();
    assert_eq!(ask(&mut site.machine, FLOOR, 0), "00000000 00000002");
}
