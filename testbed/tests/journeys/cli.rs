//! The programs as a person meets them.

use std::{fs, process::Command};

use serde_json::Value;
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

#[test]
fn cli_the_demo_shows_every_step_to_hold() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Command::new(program("demo").unwrap()).arg("--once").current_dir(folder.path()).output().unwrap();
    let screen = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{screen}\n{}", String::from_utf8_lossy(&demo.stderr));
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("demo-report.json")).unwrap()).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let shown: Vec<_> = steps.iter().map(|step| (step["id"].as_str().unwrap(), step["ok"] == true)).collect();
    assert_eq!(shown, ["a", "b", "c", "d", "e", "f", "g", "h"].map(|id| (id, true)), "{screen}");
}
