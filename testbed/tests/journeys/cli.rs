//! The programs as a person meets them.

use std::{fs, process::Command};

use serde_json::Value;
use testbed::{Running, programs::program, until};

use crate::world::{ENDPOINT, PATIENCE, World};

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
fn cli_a_rollout_to_a_group_waits_for_an_operators_consent_while_the_events_tell_of_it() {
    let world = World::new();
    let events = world.stage.folder.join("events.log");
    let mut follow = world.stage.operator.command(&["--json", "events", "--follow", "--after", "0"]).unwrap();
    let followed = Running::start("mbl events", &mut follow, &events).unwrap();

    world.mbl(&format!("group create doors --title Doors {ENDPOINT} not-there-yet"));
    assert_eq!(world.mbl("group remove doors not-there-yet")["members"], 1);
    let missing = world.stage.operator.run(&["group", "show", "windows"]).unwrap();
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("mbl group list"), "{missing:?}");

    world.build_app("1.0.0", true);
    let pushed = world.mbl("app push hello-1.0.0");
    assert!(pushed["artifacts"].as_u64().unwrap() > 0, "{pushed}");
    assert_eq!(world.mbl("app push hello-1.0.0"), pushed, "pushing again is no misuse");
    world.sign("1.0.0", None);
    world.mbl("release publish release-1.0.0");
    let rollout = world.mbl("rollout start 1.0.0 --group doors --ask-consent --draft");
    let id = rollout["id"].as_str().unwrap();
    assert_eq!(rollout["state"], "draft");
    assert_eq!(world.mbl(&format!("rollout begin {id}"))["state"], "running");
    let waiting = world.until_rollout(id, "waiting");
    assert_eq!(waiting["devices"][0]["waiting_for"], "consent", "{waiting}");
    let stranger = world.stage.operator.run(&["rollout", "consent", id, "--device", "a-stranger"]).unwrap();
    assert!(!stranger.status.success(), "{stranger:?}");
    assert_eq!(world.mbl(&format!("rollout pause {id}"))["state"], "paused");
    assert_eq!(world.mbl(&format!("rollout resume {id}"))["state"], "running");
    world.mbl(&format!("rollout consent {id} --device {ENDPOINT}"));
    world.until_rollout(id, "succeeded");
    let open = world.mbl(&format!("rollout show {id}"));
    assert_eq!((&open["rollout"]["state"], &open["rollout"]["audience_closed"]), (&"running".into(), &false.into()));
    world.mbl(&format!("rollout close {id}"));
    world.until_answer("hello from 1.0.0");

    let kinds = ["group.created", "rollout.consented", "rollout.paused", "rollout.resumed", "rollout.finished"];
    until(PATIENCE, "the events of the rollout", || {
        let told = followed.output()?;
        Ok(kinds.iter().all(|kind| told.contains(kind)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", followed.output().unwrap()));
    world.mbl("group delete doors");
    assert_eq!(world.mbl("group list"), serde_json::json!([]));
}

#[test]
fn cli_a_device_that_is_removed_is_forgotten_and_enrols_as_a_new_one() {
    let world = World::new();
    let certificate = |shown: &Value| shown["certificates"][0].clone();
    let before = certificate(&world.mbl(&format!("device show {ENDPOINT}")));
    world.mbl(&format!("device suspend {ENDPOINT} --reason sold"));
    assert_eq!(world.mbl("device list --standing suspended").as_array().unwrap().len(), 1);
    world.mbl(&format!("device remove {ENDPOINT}"));
    let after = world.until_device("the device to enrol anew", |shown| {
        shown["device"]["connected"] == true && certificate(shown) != before
    });
    assert_eq!(after["certificates"].as_array().unwrap().len(), 1, "{after}");
    assert_eq!(after["device"]["standing"], "active", "{after}");

    let known = world.mbl("factory authority list");
    let id = known[0]["id"].as_str().unwrap();
    assert!(world.mbl(&format!("factory authority revoke {id}"))["revoked"].is_u64());
    assert!(world.mbl("factory authority list")[0]["revoked"].is_u64());
    let missing = world.stage.operator.run(&["factory", "authority", "revoke", "nobody"]).unwrap();
    assert!(String::from_utf8_lossy(&missing.stderr).contains("mbl factory authority list"), "{missing:?}");
}

#[test]
fn cli_the_demo_shows_every_step_to_hold() {
    let folder = tempfile::tempdir().unwrap();
    let demo =
        Command::new(program("demo").unwrap()).args(["--host", "--once"]).current_dir(folder.path()).output().unwrap();
    let screen = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{screen}\n{}", String::from_utf8_lossy(&demo.stderr));
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("demo-report.json")).unwrap()).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let shown: Vec<_> = steps.iter().map(|step| (step["id"].as_str().unwrap(), step["ok"] == true)).collect();
    assert_eq!(shown, ["a", "b", "c", "d", "e", "f", "g", "h"].map(|id| (id, true)), "{screen}");
}
