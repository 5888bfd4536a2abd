//! Step (g): a service that was taken over delivers four bad releases; the device refuses each with its own code and is untouched.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use protocol_types::Digest;
use serde_json::{Value, json};
use testbed::{Stage, stage::greeting};

use super::{
    attacker::Attacker,
    life,
    releases::{self, Built, Plan},
};
use crate::{
    report::note,
    stage::{await_http, start_rollout, text, watch},
};

/// The four attacks on a device that runs `good`.
pub(crate) fn taken_over_service(stage: &mut Stage, good: &Built, first: &Built) -> anyhow::Result<Value> {
    let attacker = Attacker::new(stage.service.data_dir());
    let before = life::runs(stage, "1.1.0", good)?;
    let evidence = json!({
        "signed_by_a_stranger": stranger(stage, &attacker)?,
        "tampered_artifact": tampered(stage, &attacker)?,
        "replayed_older_repository": replayed(stage, &attacker, first)?,
        "release_below_the_floor": below_floor(stage, &attacker, first)?,
    });
    let after = life::runs(stage, "1.1.0", good)?;
    let slot = |device: &Value| device["device"]["report"]["slot"].clone();
    ensure!(slot(&before) == slot(&after), "the device changed its slot");
    // How an application is doing may change; what it is may not.
    let components = |device: &Value| -> Vec<(Value, Value)> {
        let all = device["components"].as_array().into_iter().flatten();
        all.map(|component| (component["name"].clone(), component["digest"].clone())).collect()
    };
    ensure!(components(&before) == components(&after), "the device's components changed");
    await_http(stage, &greeting("1.1.0"))?;
    note("the device runs what it ran before");
    Ok(evidence)
}

/// What the attacker makes the service order, and what the device must say to it.
struct Order {
    path: String,
    digest: String,
    expected: &'static str,
}

/// Waits until the device has refused what was ordered in the name of `rollout`, and tells with which code.
fn refusal(stage: &Stage, rollout: &str, order: &Order) -> anyhow::Result<Value> {
    let expected = order.expected;
    let device = stage.await_device(&format!("the device to refuse with `{expected}`"), |device| {
        let report = &device["device"]["report"];
        let answers = report["rollout"] == rollout && report["digest"] == order.digest.as_str();
        device["device"]["connected"] == true && answers && report["phase"] == "failed"
    })?;
    let report = &device["device"]["report"];
    ensure!(
        report["reason_code"] == expected,
        "the device gave the code {}: {}",
        report["reason_code"],
        report["reason"]
    );
    note(&format!("refused: {expected}: {}", text(report, "/reason")?));
    Ok(json!({
        "ordered": order.path, "code": report["reason_code"], "reason": report["reason"], "running": report["running_version"],
    }))
}

/// Changes the data of the service while it is down, lets the device meet the changed service, then puts everything back.
fn with_changed_data(
    stage: &mut Stage,
    attacker: &Attacker,
    name: &str,
    change: impl FnOnce(&Attacker) -> anyhow::Result<Order>,
) -> anyhow::Result<Value> {
    let backup = stage.folder.join("attacker/backup");
    stage.service.kill()?;
    attacker.copy_database(&backup)?;
    let order = change(attacker)?;
    attacker.order(&order.path, &order.digest, name)?;
    stage.service.restart()?;
    let seen = refusal(stage, name, &order);
    stage.service.kill()?;
    attacker.put_database(&backup)?;
    stage.service.restart()?;
    seen
}

fn stranger(stage: &mut Stage, attacker: &Attacker) -> anyhow::Result<Value> {
    note(
        "the attacker signs targets with a key of their own, and a timestamp for them with the stolen keys of the service",
    );
    let good = stage.json(&["release", "show", "1.1.0"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    with_changed_data(stage, attacker, "stranger", |attacker| {
        let (path, digest) = runtime.block_on(attacker.publish_as_stranger(&good["document"]))?;
        Ok(Order { path, digest, expected: "unknown_key" })
    })
}

fn tampered(stage: &mut Stage, attacker: &Attacker) -> anyhow::Result<Value> {
    note("the attacker flips one bit in each block of the stored operating system of release 1.3.0");
    let built = releases::publish(stage, Plan::ordinary("1.3.0", 1))?;
    let root = root_section(stage)?;
    let flipped = attacker.tamper(&root)?;
    let rollout = start_rollout(stage, "1.3.0")?;
    let (_, code, _) = watch(stage, &rollout)?;
    attacker.tamper(&root)?;
    ensure!(code == 5, "watching the rollout of a tampered release ended with {code}");
    // The rollout stopped and took its wish back, so what the device said is in the rollout's record.
    let device = stage.json(&["rollout", "show", &rollout])?["devices"][0].clone();
    let reason = &device["reason"];
    ensure!(reason["code"] == "digest_mismatch", "the device gave the reason {reason}");
    note(&format!("refused: digest_mismatch: {}", text(reason, "/text")?));
    Ok(json!({
        "code": reason["code"], "reason": reason["text"], "rollout": rollout, "state": device["state"],
        "release": built.digest, "artifact": root.to_string(), "flipped_bits": flipped,
    }))
}

/// Digest of the root section of the operating system 1.3.0.
fn root_section(stage: &Stage) -> anyhow::Result<Digest> {
    let index = std::fs::read(stage.at_operator("os-1.3.0/os.json")).context("there is no OS index")?;
    let index: Value = serde_json::from_slice(&index)?;
    let sections = index["sections"].as_array().context("the OS index has no sections")?;
    let root = sections.iter().find(|section| section["name"] == "root").context("the OS index has no root")?;
    Ok(text(root, "/digest")?.parse()?)
}

/// The copy of the database that the attacker took after release 1.0.0.
pub(crate) fn old_copy(stage: &Stage) -> PathBuf {
    stage.folder.join("attacker/old")
}

fn replayed(stage: &mut Stage, attacker: &Attacker, first: &Built) -> anyhow::Result<Value> {
    note("the attacker puts back all metadata as it was after release 1.0.0");
    let old = old_copy(stage);
    with_changed_data(stage, attacker, "replay", |attacker| {
        attacker.replay_metadata(&old)?;
        let (path, digest) = ("releases/1.0.0.json".to_owned(), first.digest.clone());
        Ok(Order { path, digest, expected: "metadata_rollback" })
    })
}

fn below_floor(stage: &mut Stage, attacker: &Attacker, first: &Built) -> anyhow::Result<Value> {
    note("the attacker orders release 1.0.0, which is validly signed and listed, but below the floor of the device");
    with_changed_data(stage, attacker, "below-floor", |_| {
        let (path, digest) = ("releases/1.0.0.json".to_owned(), first.digest.clone());
        Ok(Order { path, digest, expected: "below_security_floor" })
    })
}
