//! Steps (a) to (f): a device's life from the factory to a release that it sends back.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::{
    Stage,
    stage::{APP, greeting},
    until,
};

use super::{
    PATIENCE,
    releases::{self, Built, Plan},
};
use crate::{
    report::note,
    stage::{ENDPOINT, await_http, component, start_rollout, text, type_line, watch},
};

/// Bytes of each slot: room for the operating system and some growth.
const SLOT_BYTES: u64 = 128 << 20;

/// (a) The service is up and knows its operator.
pub(crate) fn service_up(stage: &Stage) -> anyhow::Result<Value> {
    let data_dir = stage.service.data_dir().to_str().context("the data folder is not text")?.to_owned();
    let token = stage.json(&["service", "token", "--data-dir", &data_dir])?;
    note(&format!("$ mbl service token --data-dir {data_dir}"));
    let status = stage.json(&["service", "status"])?;
    ensure!(status["ready"] == true, "the service is not ready: {status}");
    ensure!(!stage.service.data_dir().join("first-token").exists(), "the first token is still there");
    note(&format!("the service answers at {}", text(&status, "/service")?));
    Ok(json!({
        "service": status["service"], "version": status["facts"]["version"], "bootstrap": status["facts"]["bootstrap_uri"],
        "token_scopes": token["token"]["scopes"], "first_token_gone": true,
    }))
}

/// (b) A device gets its identity in the factory; its key stays with it.
pub(crate) fn provision(stage: &Stage) -> anyhow::Result<Value> {
    type_line(stage, &format!("--quiet keys init --dir keys --app {APP}"))?;
    type_line(stage, "keys publish --dir keys")?;
    type_line(stage, "factory authority init --dir factory")?;
    type_line(stage, "factory authority upload --dir factory")?;
    releases::build_os(stage, "0.9.0")?;
    stage.format_disk(&stage.at_operator("os-0.9.0"), SLOT_BYTES)?;

    let arguments = stage.provisioning("factory", "keys");
    note(&format!("$ mbl {}", arguments.join(" ")));
    let provisioned = stage.json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;

    let key = stage.device_dir().join("keys/device-key.pem");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&key).context("the device has no key")?) & 0o777;
    ensure!(mode == 0o600, "the device's key has the mode {mode:o}");
    let leaked = releases::holds_private_key(&stage.folder.join("operator"))?;
    ensure!(!leaked, "a private key lies in the clear in the operator's folder");
    note("the device's key is on the device alone");
    Ok(json!({
        "endpoint": provisioned["endpoint"], "enrolment": provisioned["enrolment"],
        "factory_certificate": provisioned["certificate"],
        "device_key_mode": format!("{mode:o}"), "private_key_in_operators_folder": leaked,
    }))
}

/// (c) The device is turned on, bootstraps, gets its operational certificate and registers.
pub(crate) fn enrol(stage: &mut Stage) -> anyhow::Result<Value> {
    stage.power_on()?;
    let device = stage.await_registered()?;
    let certificate = device["certificates"].get(0).context("the service issued no certificate")?.clone();
    ensure!(certificate["from_factory"] == true, "the certificate was not asked for with the factory certificate");
    ensure!(certificate["parent"] == device["factory_serial"], "the certificate has another parent than the factory's");
    note(&format!("registered, runs {}", text(&device, "/device/report/running_version")?));
    Ok(json!({
        "connected": true, "operational_certificate": certificate, "factory_serial": device["factory_serial"],
        "running_version": device["device"]["report"]["running_version"], "slot": device["device"]["report"]["slot"],
        "events": event_kinds(stage)?,
    }))
}

/// The kinds of the events about the device, in order.
fn event_kinds(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let subject = format!("devices/{ENDPOINT}");
    let text = stage.mbl(&["--json", "events", "--subject", &subject])?;
    text.lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["type"].as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Rolls a published release out and checks that the device runs exactly it.
pub(crate) fn roll_out(stage: &Stage, version: &str, built: &Built) -> anyhow::Result<Value> {
    let rollout = start_rollout(stage, version)?;
    let (seconds, code, stderr) = watch(stage, &rollout)?;
    ensure!(code == 0, "the rollout ended with {code}: {stderr}");
    let device = runs(stage, version, built)?;
    let body = await_http(stage, &greeting(version))?;
    note(&format!("http://127.0.0.1:{}/ answers `{body}`", stage.port));
    Ok(json!({
        "rollout": rollout, "seconds": (seconds * 10.0).round() / 10.0, "http": body,
        "release_digest": device["device"]["report"]["running_digest"], "slot": device["device"]["report"]["slot"],
        "components": device["components"], "floor": device["device"]["report"]["floor"],
    }))
}

/// Waits until the device reports the release, and compares every digest with what was built.
pub(crate) fn runs(stage: &Stage, version: &str, built: &Built) -> anyhow::Result<Value> {
    let device = stage.await_device(&format!("the device to run {version}"), |device| {
        device["device"]["connected"] == true && device["device"]["report"]["running_digest"] == built.digest.as_str()
    })?;
    let (os, app) = (component(&device, "os")?, component(&device, &format!("application/{APP}"))?);
    ensure!(os == (version.to_owned(), built.os_root.clone()), "the device reports the operating system {os:?}");
    ensure!(app == (version.to_owned(), built.app.clone()), "the device reports the application {app:?}");
    Ok(device)
}

/// (d) The first release brings the application.
pub(crate) fn first_release(stage: &Stage) -> anyhow::Result<(Built, Value)> {
    let built = releases::publish(stage, Plan::ordinary("1.0.0", 0))?;
    let evidence = roll_out(stage, "1.0.0", &built)?;
    Ok((built, evidence))
}

/// (e) The second replaces operating system and application, and raises the floor.
pub(crate) fn second_release(stage: &Stage, before: &Built) -> anyhow::Result<(Built, Value)> {
    let old = stage.device()?;
    let built = releases::publish(stage, Plan { raises_floor: true, ..Plan::ordinary("1.1.0", 1) })?;
    ensure!(built.os_root != before.os_root && built.app != before.app, "the new release has the old components");
    let mut evidence = roll_out(stage, "1.1.0", &built)?;
    let slots = [&old["device"]["report"]["slot"], &evidence["slot"]];
    ensure!(slots[0] != slots[1], "the device still runs in slot {}", slots[0]);
    let device = stage.await_device("the floor to rise", |device| device["device"]["report"]["floor"] == 1)?;
    evidence["floor"] = device["device"]["report"]["floor"].clone();
    evidence["components_before"] = old["components"].clone();
    Ok((built, evidence))
}

/// (f) The third's application never becomes ready: the device goes back by itself and the rollout stops.
pub(crate) fn bad_release(stage: &Stage, good: &Built) -> anyhow::Result<Value> {
    releases::publish(stage, Plan { ready: false, time_limit: 15, ..Plan::ordinary("1.2.0", 1) })?;
    let rollout = start_rollout(stage, "1.2.0")?;
    let (seconds, code, stderr) = watch(stage, &rollout)?;
    ensure!(code == 5, "watching a rollout that stops must end with 5, not {code}: {stderr}");
    let shown = until(PATIENCE, "the device to have gone back", || {
        let shown = stage.json(&["rollout", "show", &rollout])?;
        Ok((shown["devices"][0]["state"] == "rolled_back").then_some(shown))
    })?;
    ensure!(shown["rollout"]["state"] == "stopped", "the rollout is {}", shown["rollout"]["state"]);
    let reason = shown["devices"][0]["reason"].clone();
    ensure!(reason["code"] == "application_not_ready", "the reason is {reason}");
    let device = runs(stage, "1.1.0", good)?;
    let body = await_http(stage, &greeting("1.1.0"))?;
    note(&format!("went back to 1.1.0: {}", text(&reason, "/text")?));
    Ok(json!({
        "rollout": shown["rollout"], "device": shown["devices"][0], "seconds": (seconds * 10.0).round() / 10.0,
        "message": stderr.trim(), "runs_again": device["device"]["report"]["running_version"], "http": body,
    }))
}
