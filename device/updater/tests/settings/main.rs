//! The real `mbl-updater configure-system` on a root of its own, where shell scripts stand for the programs that it tells.

#![expect(clippy::unwrap_used, clippy::panic, reason = "whatever fails here fails the test")]

mod board;
mod given;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use board::Board;
use device_updater::{
    record::{Origin, Pending, Record, Verdict, Wish},
    settings::{Place, hold_since_boot},
};
use protocol_types::{AppName, Digest, Reason, ReasonCode, Slot, TargetPath};

const FIRST: &str = r#"{ "format": 1, "hostname": "kiln-7", "time_servers": ["ntp.example"], "log_level": "debug", "journal_mib": 64,
    "network": [{ "kind": "ethernet", "interface": "eth0", "ipv4": { "addresses": ["192.0.2.7/24"] } }] }"#;
const SECOND: &str = r#"{ "format": 1, "time_servers": ["ntp.example"], "journal_mib": 100 }"#;
const MALFORMED: &str = r#"{ "format": 1, "hostname": "Kiln 7" }"#;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_change_is_rendered_and_those_whom_it_concerns_are_told() {
    let board = Board::new();
    assert_eq!(board.change(Some(FIRST)).0, 0);
    assert_eq!(board.text("proc/sys/kernel/hostname"), "kiln-7");
    assert_eq!(board.setting("chrony/mbl.sources"), "server ntp.example iburst\n");
    assert_eq!(board.setting("environment"), "MBL_LOG_LEVEL=debug\n");
    assert_eq!(board.connections(), ["mbl-on-eth0.nmconnection", "mbl-wired.nmconnection"]);
    // The first time nobody knows what the programs have read.
    let all = [
        "systemctl restart systemd-journald.service",
        "systemctl try-reload-or-restart chrony.service",
        "nmcli connection reload",
        "nmcli --wait 30 connection up id mbl-on-eth0",
        "systemctl --no-block try-restart mbl-agent.service",
    ];
    assert_eq!(board.told(), all);
    // chrony reads as a user of its own; NetworkManager refuses what others could read.
    assert_eq!(mode(&board.path("mbl/run/system")), 0o755);
    assert_eq!(mode(&board.path("mbl/run/system/chrony")), 0o755);
    assert_eq!(mode(&board.path("mbl/run/system/chrony/mbl.sources")), 0o644);
    let connections = board.path("run/NetworkManager/system-connections");
    assert_eq!(mode(&connections.join("mbl-on-eth0.nmconnection")), 0o600);

    // The same once more, and then other settings.
    assert_eq!((board.change(Some(FIRST)).0, board.told()), (0, Vec::new()));
    assert_eq!(board.change(Some(SECOND)).0, 0);
    assert_eq!(board.text("proc/sys/kernel/hostname"), "gate-1", "back to the name by the identity");
    assert_eq!(board.setting("journald.conf"), "[Journal]\nSystemMaxUse=100M\nSystemMaxFileSize=13M\n");
    assert_eq!(board.connections(), ["mbl-wired.nmconnection"]);
    assert_eq!(
        board.told(),
        [
            "systemctl restart systemd-journald.service",
            "nmcli connection reload",
            "nmcli --wait 30 connection up id mbl-wired ifname eth0",
            "systemctl --no-block try-restart mbl-agent.service",
        ]
    );
    assert_eq!(board.change(None).0, 0);
    assert_eq!(board.setting("journald.conf"), "[Journal]\n");
    assert!(!board.path("mbl/run/system/chrony").exists(), "an empty file would hide the image's sources");
    assert!(!board.path("mbl/run/system.next").exists());
}

#[test]
fn whoever_announces_the_device_is_told_of_its_new_name_alone() {
    let board = Board::new();
    let announces = "systemctl try-restart avahi-daemon.service";
    assert_eq!(board.change(Some(FIRST)).0, 0);
    assert!(!board.told().iter().any(|told| told == announces), "an image without mDNS");
    fs::create_dir_all(board.path("usr/sbin")).unwrap();
    fs::write(board.path("usr/sbin/avahi-daemon"), "").unwrap();
    let renamed = FIRST.replace("kiln-7", "oven");
    assert_eq!(board.change(Some(&renamed)).0, 0);
    assert_eq!(board.told(), [announces, "systemctl --no-block try-restart mbl-agent.service"]);
    assert_eq!(board.change(Some(&renamed.replace("debug", "info"))).0, 0);
    assert_eq!(board.told(), ["systemctl --no-block try-restart mbl-agent.service"]);
}

#[test]
fn a_refused_document_leaves_the_former_settings_and_tells_nobody() {
    let board = Board::new();
    assert_eq!(board.change(Some(FIRST)).0, 0);
    let (status, said) = board.change(Some(MALFORMED));
    assert_eq!((status, board.told()), (3, Vec::new()), "{said}");
    assert!(said.contains("the former one stays in force") && said.contains("`Kiln 7` is not a host name"), "{said}");
    assert_eq!(board.setting("system.json"), FIRST);
    assert_eq!(board.text("proc/sys/kernel/hostname"), "kiln-7");
    assert_eq!((board.change(Some(FIRST)).0, board.told()), (0, Vec::new()), "nothing had changed");
}

#[test]
fn whoever_was_not_told_before_an_interruption_is_told_afterwards() {
    let board = Board::new();
    assert_eq!(board.change(Some(FIRST)).0, 0);
    fs::remove_file(board.path("mbl/run/system/told")).unwrap();
    assert_eq!((board.change(Some(FIRST)).0, board.told().len()), (0, 5));
}

#[test]
fn a_program_that_cannot_be_told_does_not_keep_the_others_from_it() {
    let board = Board::new();
    fs::write(board.path("usr/bin/nmcli"), "#!/bin/sh\nexit 8\n").unwrap();
    let (status, said) = board.change(Some(FIRST));
    assert_eq!((status, board.told().len()), (0, 3), "{said}");
    assert!(said.contains("a program was not told of its new settings") && said.contains("nmcli"), "{said}");
}

#[test]
fn what_was_rendered_at_boot_holds_until_another_document_or_identity_is_there() {
    let board = Board::new();
    let place = Place { device_dir: board.path("mbl"), root: board.path("") };
    let system = |text: &str| vec![(AppName::new("system").unwrap(), text.as_bytes().to_vec())];
    assert!(!hold_since_boot(&place, &[]), "nobody has rendered anything");
    board.remember(&Record { a: Some(board.installed("old", FIRST)), ..Record::default() });
    assert_eq!(board.boot(Slot::A, "old").0, 0);
    assert!(hold_since_boot(&place, &system(FIRST)));
    assert!(!hold_since_boot(&place, &system(SECOND)) && !hold_since_boot(&place, &[]), "another release runs now");
    assert!(!hold_since_boot(&place, &system(MALFORMED)), "whoever renders says why it is refused");

    assert_eq!(board.boot(Slot::B, "strange").0, 0);
    assert!(hold_since_boot(&place, &[]), "the image's own settings");
    fs::remove_file(board.path("mbl/factory/factory.json")).unwrap();
    assert!(!hold_since_boot(&place, &[]), "it goes by another name");
}

#[test]
fn at_boot_the_settings_are_those_of_the_release_that_was_booted() {
    let board = Board::new();
    // A device without any release goes by its identity.
    assert_eq!(board.boot(Slot::A, "old").0, 0);
    assert_eq!((board.setting("hostname"), board.setting("system.json")), ("gate-1".to_owned(), String::new()));
    assert_eq!(board.connections(), ["mbl-wired.nmconnection"]);

    let mut record = Record { a: Some(board.installed("old", FIRST)), ..Record::default() };
    let wish = Wish {
        release: TargetPath::new("releases/1.1.0.json").unwrap(),
        digest: Digest::of(b"new"),
        rollout: None,
        origin: Origin::Service,
        consent: None,
    };
    let mut pending = Pending {
        wish,
        slot: Slot::B,
        installed: board.installed("new", SECOND),
        generation: Some(2),
        was_registered: true,
        starts: 0,
        verdict: None,
        firmware: None,
    };
    record.pending = Some(pending.clone());
    board.remember(&record);
    for (slot, root, document) in [(Slot::A, "old", FIRST), (Slot::B, "new", SECOND), (Slot::B, "strange", "")] {
        assert_eq!(board.boot(slot, root).0, 0);
        assert_eq!(board.setting("system.json"), document, "slot {slot} with {root}");
    }

    // A switch in place runs in the slot of the release before, until it is left again.
    pending.slot = Slot::A;
    pending.installed.root = Digest::of(b"old");
    record.pending = Some(pending.clone());
    board.remember(&record);
    assert_eq!((board.boot(Slot::A, "old").0, board.setting("system.json")), (0, SECOND.to_owned()));
    pending.verdict = Some(Verdict::Return(Reason::new(ReasonCode::NoContact, "nobody answered")));
    record.pending = Some(pending);
    board.remember(&record);
    assert_eq!((board.boot(Slot::A, "old").0, board.setting("system.json")), (0, FIRST.to_owned()));

    // What was rendered at boot is what runs: the updater's first word changes nothing.
    fs::create_dir_all(board.path("mbl/run/configuration")).unwrap();
    assert_eq!((board.change(Some(FIRST)).0, board.told()), (0, Vec::new()));
}

#[test]
fn at_boot_settings_that_cannot_be_trusted_or_read_leave_a_device_that_can_be_reached() {
    let board = Board::new();
    let installed = board.installed("old", FIRST);
    board.remember(&Record { a: Some(installed.clone()), ..Record::default() });
    let kept = board.path("mbl/state/updater").join(installed.note.configurations[0].file_name());
    let falls_back = |says: &str| {
        let (status, said) = board.boot(Slot::A, "old");
        assert!(status == 0 && said.contains(says), "{said}");
        assert_eq!((board.setting("system.json"), board.setting("hostname")), (String::new(), "gate-1".to_owned()));
        assert_eq!(board.connections(), ["mbl-wired.nmconnection"]);
    };
    fs::write(&kept, FIRST.replace("kiln-7", "kiln-8")).unwrap();
    falls_back("does not have the signed digest");
    fs::remove_file(&kept).unwrap();
    falls_back("cannot read");
    fs::write(board.path("mbl/state/updater/state.json"), "{").unwrap();
    falls_back("cannot tell which release was booted");
    board.remember(&Record { a: Some(board.installed("old", MALFORMED)), ..Record::default() });
    falls_back("is not a host name");
}
