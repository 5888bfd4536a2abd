//! The two slots of the firmware on the reference board with a trusted execution environment, under QEMU: which one starts, and what
//! happens when it does not verify.

use protocol_types::{FirmwareRecord, Slot};
use testbed::{
    Machine,
    images::{self, Signer},
    machine::{RECORDS, SLOT_A, SLOT_B, SLOT_BYTES},
};

use crate::{
    os::{self, ANSWER, BOOT, DEVELOPMENT, PRODUCTION, STARTED, until_shell},
    os_tee::{BL1_REFUSES, BL2_REFUSES, BOARD, owners},
};

/// What BL1 says of the slot that it chose.
pub(crate) const CHOSEN: &str = "BL1: Firmware slot ";

/// Writes a record that is newer than the factory's: slot a is active, and slot b on trial or not.
fn put_b_on_trial(machine: &Machine, on_trial: bool) {
    machine.write_flash(RECORDS[1], &FirmwareRecord::new(2, Slot::A, on_trial).to_bytes()).unwrap();
}

/// Waits until BL1 has chosen a slot; what it said of it.
fn chosen(machine: &mut Machine) -> String {
    let said = machine.until_says(CHOSEN, BOOT).unwrap();
    said.trim_start_matches(CHOSEN).trim().to_owned()
}

#[test]
fn os_tee_firmware_on_trial_starts_three_times_and_then_the_active_one_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = os::machine(&owners(DEVELOPMENT), folder.path());
    machine.write_flash(SLOT_B, &machine.flash(SLOT_A, SLOT_BYTES).unwrap()).unwrap();
    put_b_on_trial(&machine, true);
    machine.power_on().unwrap();
    assert_eq!(chosen(&mut machine), "b, on trial");
    machine.until_says(STARTED, BOOT).unwrap();
    until_shell(&mut machine);
    let told = "echo slot-is-$(tr -d '\\0' < /proc/device-tree/chosen/mbl,firmware-slot)";
    let slot = machine.shell(told, ANSWER).unwrap();
    assert!(slot.contains("slot-is-b"), "{slot}");
    for _ in 0..2 {
        machine.cut_power().unwrap();
        machine.power_on().unwrap();
        assert_eq!(chosen(&mut machine), "b, on trial");
    }
    machine.cut_power().unwrap();
    let record = FirmwareRecord::parse(&machine.flash(RECORDS[1], FirmwareRecord::BYTES).unwrap()).unwrap();
    assert_eq!((record.tried, record.refused), (3, [false, false]));
    machine.power_on().unwrap();
    assert_eq!(chosen(&mut machine), "a");
    machine.until_says(STARTED, BOOT).unwrap();
}

#[test]
fn os_tee_firmware_on_trial_that_a_stranger_signed_uses_up_its_tries_and_the_active_one_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = os::machine(&owners(PRODUCTION), folder.path());
    let stranger = images::image(PRODUCTION.on(BOARD), Signer::Stranger).unwrap();
    let strange = Machine::new(&stranger, &folder.path().join("stranger")).unwrap();
    machine.write_flash(SLOT_B, &strange.flash(SLOT_A, SLOT_BYTES).unwrap()).unwrap();
    put_b_on_trial(&machine, true);
    machine.power_on().unwrap();
    // It restarts by itself.
    for _ in 0..3 {
        assert_eq!(chosen(&mut machine), "b, on trial");
        machine.until_says(BL1_REFUSES, BOOT).unwrap();
    }
    assert_eq!(chosen(&mut machine), "a");
    machine.until_says(STARTED, BOOT).unwrap();
}

#[test]
fn os_tee_an_active_package_with_one_flipped_bit_gives_way_to_the_other_slot() {
    let (build, folder) = (owners(PRODUCTION), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    machine.write_flash(SLOT_B, &machine.flash(SLOT_A, SLOT_BYTES).unwrap()).unwrap();
    machine.flip_bit_in_flash(&std::fs::read(build.join("parts/bl31.bin")).unwrap(), 20_000).unwrap();
    machine.power_on().unwrap();
    assert_eq!(chosen(&mut machine), "a");
    machine.until_says(BL2_REFUSES, BOOT).unwrap();
    assert_eq!(chosen(&mut machine), "b");
    machine.until_says(STARTED, BOOT).unwrap();
    machine.cut_power().unwrap();
    // It is not tried in vain at each start.
    machine.power_on().unwrap();
    assert_eq!(chosen(&mut machine), "b");
}

#[test]
fn os_tee_a_board_with_two_broken_packages_stops_and_one_without_a_record_starts_slot_a() {
    let (build, folder) = (owners(PRODUCTION), tempfile::tempdir().unwrap());
    let mut machine = os::machine(&build, folder.path());
    let good = machine.flash(SLOT_A, SLOT_BYTES).unwrap();
    machine.flip_bit_in_flash(&std::fs::read(build.join("parts/bl31.bin")).unwrap(), 20_000).unwrap();
    machine.write_flash(SLOT_B, &machine.flash(SLOT_A, SLOT_BYTES).unwrap()).unwrap();
    machine.power_on().unwrap();
    for slot in ["a", "b", "a"] {
        assert_eq!(chosen(&mut machine), slot);
        machine.until_says(BL2_REFUSES, BOOT).unwrap();
    }
    machine.until_says("Neither firmware slot starts", BOOT).unwrap();
    machine.cut_power().unwrap();

    machine.write_flash(SLOT_A, &good).unwrap();
    for place in RECORDS {
        let torn = &FirmwareRecord::new(9, Slot::B, false).to_bytes()[..20];
        machine.write_flash(place, torn).unwrap();
    }
    machine.power_on().unwrap();
    machine.until_says("BL1: No firmware record, slot a", BOOT).unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
}
