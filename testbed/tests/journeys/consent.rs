//! Consent that is asked on the device: the service waits for what somebody at the board answers.

use std::process::{Command, Output};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use testbed::{programs::program, until};

use crate::world::{ENDPOINT, PATIENCE, World};

/// What somebody at the device types.
fn at_device(world: &World, words: &[&str]) -> Output {
    let mut command = Command::new(program("mbl-updater").unwrap());
    command.arg("consent").args(words).arg("--device-dir").arg(world.stage.device_dir()).output().unwrap()
}

fn asked(world: &World) -> Option<Value> {
    let said = at_device(world, &["show", "--json"]);
    let question: Option<Value> = said.status.success().then(|| serde_json::from_slice(&said.stdout).unwrap());
    question.filter(|question| !question.is_null())
}

fn until_asked(world: &World) -> Value {
    until(PATIENCE, "the device to ask", || Ok(asked(world))).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Waits until the device waits in the rollout for a yes, for this reason.
fn until_waiting(world: &World, id: &str, code: &str) -> Value {
    until(PATIENCE, &format!("the device to wait with {code}"), || {
        let shown = world.stage.json(&["rollout", "show", id])?;
        let device = &shown["devices"][0];
        let waits = device["state"] == "waiting" && device["waiting_for"] == "consent";
        Ok((waits && device["reason"]["code"] == code).then_some(shown))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", world.mbl(&format!("rollout why {id}"))))
}

fn publish(world: &World, version: &str) {
    world.build_app(version, true);
    world.sign(version, None);
    world.mbl(&format!("release publish release-{version}"));
}

/// Starts a rollout that asks at the device; its id.
fn start(world: &World, version: &str, more: &str) -> String {
    let rollout = world.mbl(&format!("rollout start {version} --all --ask-device{more}"));
    assert_eq!(rollout["consent"], "device", "{rollout}");
    rollout["id"].as_str().unwrap().to_owned()
}

fn in_seconds(seconds: u32) -> String {
    let from_now = format!("now + {seconds} seconds");
    let output = Command::new("date").args(["-u", "-d", &from_now, "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn fleet_a_release_waits_for_consent_that_is_asked_on_the_device_and_a_no_is_no_failure() {
    let mut world = World::new();
    world.build_app("1.0.0", true);
    let first = world.roll_out("1.0.0");
    world.until_rollout(&first, "succeeded");

    publish(&world, "1.1.0");
    let id = start(&world, "1.1.0", "");
    until_waiting(&world, &id, "consent_needed");
    assert_eq!(until_asked(&world), json!({ "version": "1.1.0", "deadline": null }));
    let why = world.mbl(&format!("device why {ENDPOINT}"));
    assert_eq!(why["reasons"][0]["rule"], "consent", "{why}");
    assert!(why["reasons"][0]["hint"].as_str().unwrap().contains("mbl-updater consent"), "{why}");

    // The question outlives the process that asks, a restart of the board, and one of the service.
    let before = world.process("mbl-updater");
    kill_process(before, Signal::KILL).unwrap();
    until(PATIENCE, "another updater", || {
        let now = world.stage.process("mbl-updater")?;
        Ok(now.is_some_and(|id| i64::from(id) != i64::from(before.as_raw_nonzero().get())).then_some(()))
    })
    .unwrap();
    until_asked(&world);
    world.stage.power_off().unwrap();
    world.stage.service.kill().unwrap();
    world.stage.service.restart().unwrap();
    world.power_on();
    until_asked(&world);
    until_waiting(&world, &id, "consent_needed");
    world.until_answer("hello from 1.0.0");

    let refused = at_device(&world, &["refuse", "--release", "1.1.0"]);
    assert!(refused.status.success(), "{}", String::from_utf8_lossy(&refused.stderr));
    let shown = until_waiting(&world, &id, "consent_refused");
    assert_eq!((&shown["rollout"]["state"], &shown["devices"][0]["failed_tries"]), (&json!("running"), &json!(0)));
    let why = world.mbl(&format!("rollout why {id}"));
    assert!(why["next_attempt"].is_u64() && why["text"].as_str().unwrap().contains("said no"), "{why}");
    assert!(!at_device(&world, &["give"]).status.success(), "nothing is asked any more");
    let (code, _, told) = world.stage.try_mbl(&["rollout", "consent", &id]).unwrap();
    assert!(code == 3 && told.contains("wrong_state"), "{told}");

    world.mbl(&format!("rollout ask-again {id}"));
    until_asked(&world);
    let given = at_device(&world, &["give"]);
    assert!(given.status.success(), "{}", String::from_utf8_lossy(&given.stderr));
    world.until_rollout(&id, "succeeded");
    world.until_answer("hello from 1.1.0");
    let told = world.stage.mbl(&["events"]).unwrap();
    assert!(told.contains("rollout.asked_again") && !told.contains("rollout.stopped"), "{told}");
}

#[test]
fn fleet_consent_on_the_device_is_not_needed_from_the_deadline_on_whatever_was_answered_before() {
    let world = World::new();
    publish(&world, "1.0.0");
    let id = start(&world, "1.0.0", &format!(" --ask-until {} --ask-again 86400", in_seconds(45)));
    assert!(until_asked(&world)["deadline"].is_u64());
    let refused = at_device(&world, &["refuse"]);
    assert!(refused.status.success(), "{}", String::from_utf8_lossy(&refused.stderr));
    until_waiting(&world, &id, "consent_refused");
    world.until_rollout(&id, "succeeded");
    world.until_answer("hello from 1.0.0");
}
