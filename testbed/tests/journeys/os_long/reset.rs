//! What a board makes of its state: as large as the disk, kept over restarts, and new after a factory reset, which leaves the board
//! what it is.

use std::{fs::File, os::unix::fs::FileExt as _, time::Duration};

use serde_json::Value;
use testbed::{
    Machine,
    images::{self, Order, Signer},
};

use crate::{
    os::{self, boot_record, failed_units, until_shell},
    site::Site,
};

/// Without hardware virtualisation everything takes its time, and other tests run beside it.
const BOOT: Duration = Duration::from_secs(600);
const ANSWER: Duration = Duration::from_secs(120);

/// A key that is held down repeats about this often; the loader waits for one for a tenth of a second.
const KEY: Duration = Duration::from_millis(30);
const ENTER: &str = "\r";
/// The system in the loader's menu, a kernel that started without it, and the question of the initrd.
const SYSTEM: &str = "Mbed Linux OS";
const KERNEL: &str = "Booting Linux";
const QUESTION: &str = "the boot menu was opened";

/// What only a system that started says.
const STARTED: &str = "mbl-init: starting slot";

fn build() -> std::path::PathBuf {
    images::image(Order::first("development"), Signer::Owner).unwrap()
}

/// The number that a command prints in its last line.
fn number(machine: &mut Machine, command: &str) -> u64 {
    let said = machine.shell(command, ANSWER).unwrap();
    let last = said.lines().last().unwrap_or_default().trim();
    last.parse().unwrap_or_else(|error| panic!("{command}: {error}: {said}"))
}

/// How large the file system of the state is.
fn state_mib(machine: &mut Machine) -> u64 {
    number(machine, "df -m --output=size /state")
}

/// Makes the disk of a machine that is off larger.
fn add_to_disk(machine: &Machine, mib: u64) {
    let disk = File::options().write(true).open(machine.disk()).unwrap();
    let length = disk.metadata().unwrap().len();
    disk.set_len(length + (mib << 20)).unwrap();
}

/// The header of the partition table, in the disk's second sector.
fn table_header(machine: &Machine) -> [u8; 512] {
    let mut header = [0; 512];
    File::open(machine.disk()).unwrap().read_exact_at(&mut header, 512).unwrap();
    header
}

#[test]
fn os_a_state_follows_the_disk_and_keeps_journal_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = os::machine(&build(), folder.path());
    // First boot on a disk that is larger than the image.
    add_to_disk(&machine, 256);
    machine.power_on().unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
    until_shell(&mut machine);
    assert_eq!(boot_record(&mut machine)["state"], "created");
    let first = state_mib(&mut machine);
    assert!(first > 680, "the state has {first} MiB of 512 + 256");
    // The timer would note the present time.
    let commands = "systemctl stop mbl-clock.timer mbl-clock.service; echo kept > /state/note; touch -d 2031-05-01 /state/clock; \
                    journalctl --sync; sync";
    machine.shell(commands, ANSWER).unwrap();
    machine.cut_power().unwrap();

    // A state that is there grows with the disk, and nothing in it is lost.
    add_to_disk(&machine, 256);
    let header = table_header(&machine);
    machine.power_on().unwrap();
    machine.until_says("growing the state by", BOOT).unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
    until_shell(&mut machine);
    assert!(machine.shell("cat /state/note", ANSWER).unwrap().contains("kept"));
    let second = state_mib(&mut machine);
    assert!(second > first + 200, "the state had {first} MiB, now {second}");
    let year = number(&mut machine, "date +%Y");
    assert!(year >= 2031, "the clock began before the last note of the time: {year}");
    let boots = number(&mut machine, "journalctl --quiet --list-boots --no-pager | grep -c .");
    assert!(boots >= 2, "the journal holds {boots} boot");
    assert_eq!(machine.shell("uname -n", ANSWER).unwrap(), "mbl", "no identity, no name");
    assert_eq!(failed_units(&mut machine, "mbl-factory.service"), "");
    machine.cut_power().unwrap();

    // What a cut of power leaves in the worst moment: the new table under the old header.
    assert_ne!(table_header(&machine), header, "the table has grown");
    File::options().write(true).open(machine.disk()).unwrap().write_all_at(&header, 512).unwrap();
    machine.power_on().unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
    until_shell(&mut machine);
    assert!(machine.shell("cat /state/note", ANSWER).unwrap().contains("kept"));
    assert_eq!(state_mib(&mut machine), second);
}

#[test]
fn os_a_board_is_the_same_device_with_a_new_state_after_a_factory_reset_by_its_service() {
    let mut site = Site::provisioned(&build());
    site.machine.power_on().unwrap();
    site.until_runs("1.0.0", "a");
    let machine = &mut site.machine;
    machine.until_says("bash-", BOOT).unwrap();
    assert_eq!(machine.shell("uname -n", ANSWER).unwrap(), "gate-1", "it goes by its name");
    let watched = "systemctl show --property=WatchdogTimestampMonotonic --value mbl-agent mbl-apps mbl-updater";
    let seen: Vec<u64> =
        machine.shell(watched, ANSWER).unwrap().lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert!(seen.len() == 3 && seen.iter().all(|time| *time > 0), "the manager saw no sign of life: {seen:?}");
    let announced = "journalctl --no-pager --unit avahi-daemon --grep 'successfully established' | grep -c gate-1";
    assert!(number(machine, announced) >= 1, "it announces itself by its name");
    // An image that was built without a developer's key lets nobody in; with one, only who has it.
    assert_eq!(machine.shell("systemctl is-active mbl-ssh", ANSWER).unwrap(), "inactive");
    let unit = "[Unit]\\nConditionPathExists=\\n[Service]\\nExecStart=\\nExecStart=/usr/sbin/sshd -D -e -o AuthorizedKeysFile=/run/key.pub\\n";
    let ask = "ssh -q -i /run/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/run/known root@127.0.0.1 uname -n";
    for command in [
        "ssh-keygen -q -t ed25519 -N '' -f /run/key && ssh-keygen -q -t ed25519 -N '' -f /run/other".to_owned(),
        format!(
            "mkdir -p /run/systemd/system/mbl-ssh.service.d && printf '{unit}' > /run/systemd/system/mbl-ssh.service.d/test.conf"
        ),
        "systemctl daemon-reload && systemctl start mbl-ssh".to_owned(),
    ] {
        // The kernel may speak in between.
        let said = machine.shell(&format!("{command} && echo well"), ANSWER).unwrap();
        assert!(said.ends_with("well"), "{command}: {said}");
    }
    let said = machine.shell(ask, ANSWER).unwrap();
    assert!(said.ends_with("gate-1"), "{said}");
    let stranger = ask.replace("/run/key", "/run/other");
    let said = machine.shell(&format!("{stranger} || echo refused"), ANSWER).unwrap();
    assert!(said.ends_with("refused"), "{said}");
    machine.shell("echo mine > /state/note; sync", ANSWER).unwrap();

    let asked = site.mbl("device factory-reset gate-1");
    assert!(asked["reset_asked"].is_u64(), "{asked}");
    let machine = &mut site.machine;
    machine.until_says("a factory reset was asked for", BOOT).unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
    machine.until_says("bash-", BOOT).unwrap();
    assert_eq!(boot_record(machine)["state"], "created");
    assert!(
        machine
            .shell("ls /state/note /state/mbl/agent/factory-reset.json", ANSWER)
            .unwrap()
            .matches("No such file")
            .count()
            == 2
    );
    site.until_runs("1.0.0", "a");
    let shown = site.mbl("device show gate-1");
    assert_eq!(
        (&shown["device"]["standing"], &shown["device"]["reset_asked"]),
        (&"active".into(), &Value::Null),
        "{shown}"
    );
    let from_factory = shown["certificates"].as_array().unwrap().iter().filter(|it| it["from_factory"] == true).count();
    assert_eq!(from_factory, 2, "it enrolled again with the certificate of the factory: {shown}");
}

/// Somebody in front of the machine holds a key until the loader shows its menu, and chooses the system.
fn start_by_the_menu(machine: &mut Machine) {
    machine.power_on().unwrap();
    let mut keys = 0;
    loop {
        match machine.until_says_one(&[SYSTEM, KERNEL], KEY) {
            Ok(said) => {
                assert!(said.starts_with(SYSTEM), "the loader showed no menu: {}", machine.said());
                break;
            }
            Err(_) => machine.type_text(" ").unwrap(),
        }
        keys += 1;
        assert!(keys < 10_000, "neither menu nor kernel: {}", machine.said());
    }
    machine.type_text(ENTER).unwrap();
    machine.until_says(QUESTION, BOOT).unwrap();
}

#[test]
fn os_a_person_at_the_boot_menu_makes_a_board_as_new_and_nobody_else_does() {
    let mut site = Site::running(&build());
    site.shell("echo mine > /state/note; sync");
    site.shut_down();

    // The menu alone, and any other answer, leave the board as it is.
    start_by_the_menu(&mut site.machine);
    site.machine.type_text("no\r").unwrap();
    site.machine.until_says("no factory reset", BOOT).unwrap();
    site.machine.until_says(STARTED, BOOT).unwrap();
    site.until_shell();
    assert_eq!(boot_record(&mut site.machine)["state"], "open");
    assert!(site.shell("cat /state/note").contains("mine"));
    site.shut_down();

    start_by_the_menu(&mut site.machine);
    site.machine.type_text("reset\r").unwrap();
    site.machine.until_says("a factory reset was asked for", BOOT).unwrap();
    site.machine.until_says(STARTED, BOOT).unwrap();
    site.until_shell();
    let record = boot_record(&mut site.machine);
    assert_eq!((&record["state"], &record["entry"]), (&"created".into(), &"mbl-1-a.efi".into()), "{record}");
    assert!(site.shell("ls /state/note").contains("No such file"));
    assert_eq!(site.shell("uname -n"), "gate-1", "the identity stays");
    let certificates = |shown: &Value| {
        shown["certificates"].as_array().map_or(0, |all| all.iter().filter(|it| it["from_factory"] == true).count())
    };
    site.until_device("the board to enrol again with the certificate of the factory", |shown| {
        shown["device"]["connected"] == true && certificates(shown) == 2
    });
}
