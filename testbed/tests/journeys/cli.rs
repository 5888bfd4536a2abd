//! The programs as a person meets them.

use std::process::Command;

use testbed::programs::program;

#[test]
fn cli_every_program_says_what_it_is_for_and_refuses_misuse_with_status_two() {
    for name in ["mbl", "mbl-service", "mbl-agent", "mbl-updater", "mbl-apps", "mbl-host-board"] {
        let path = program(name).unwrap();
        let help = Command::new(&path).arg("--help").output().unwrap();
        assert!(help.status.success(), "{name} --help: {help:?}");
        assert!(!help.stdout.is_empty(), "{name} --help says nothing on standard output");
        let misuse = Command::new(&path).arg("--no-such-flag").output().unwrap();
        assert_eq!(misuse.status.code(), Some(2), "{name} --no-such-flag: {misuse:?}");
        assert!(misuse.stdout.is_empty(), "{name} speaks to people on standard output");
    }
}
