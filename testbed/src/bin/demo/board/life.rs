//! Steps (b) to (g): a board's life from the factory to a release that it sends back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::{
    stage::{APP, greeting},
    until,
};

use super::{
    Site,
    releases::{self, Images, Plan},
};
use crate::{
    report::note,
    stage::{ENDPOINT, await_http, component, start_rollout, text, type_line, watch},
};

/// What the board's first program says when it goes on to the system.
const STARTED: &str = "mbl-init: starting slot";
/// How long the emulated board may take from power-on to its first program.
const START: Duration = Duration::from_secs(300);

/// (b) The service is up and knows its operator.
pub(super) fn service_up(site: &Site) -> anyhow::Result<Value> {
    let data = site.stage.service.data_dir().display().to_string();
    type_line(&site.stage, &format!("service token --data-dir {data} --host 127.0.0.1"))?;
    let status = site.stage.json(&["service", "status"])?;
    ensure!(status["ready"] == true, "the service is not ready: {status}");
    Ok(json!({ "service": status["service"], "version": status["facts"]["version"] }))
}

/// (c) The board gets its identity on the factory line.
pub(super) fn provision(site: &Site) -> anyhow::Result<Value> {
    let stage = &site.stage;
    type_line(stage, &format!("--quiet keys init --dir keys --app {APP}"))?;
    type_line(stage, "keys publish --dir keys")?;
    type_line(stage, "factory authority init --dir factory")?;
    type_line(stage, "factory authority upload --dir factory")?;
    let device = site.machine.command()?;
    let device: Vec<String> = std::iter::once(device.get_program())
        .chain(device.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut words = vec!["factory", "provision", "--endpoint", ENDPOINT, "--authority", "factory", "--keys", "keys"];
    words.extend(["--board", "qemu-arm64-tpm", "--architecture", "aarch64", "--patience", "900", "--"]);
    words.extend(device.iter().map(String::as_str));
    note(&format!(
        "$ mbl {} …",
        words.split_last().map_or(&[][..], |(_, most)| most).iter().take(12).copied().collect::<Vec<_>>().join(" ")
    ));
    let provisioned = stage.json(&words)?;
    Ok(json!({ "endpoint": provisioned["endpoint"], "factory_certificate": provisioned["certificate"] }))
}

/// (d) The board is turned on, verifies itself and registers.
pub(super) fn start(site: &mut Site) -> anyhow::Result<Value> {
    let began = Instant::now();
    site.power_on()?;
    let started = site.machine.until_says(STARTED, START)?;
    note(&started);
    let device = site.stage.await_registered()?;
    let seconds = began.elapsed().as_secs();
    note(&format!("registered {seconds} s after power-on, runs {}", text(&device, "/device/report/running_version")?));
    Ok(json!({
        "seconds_to_registered": seconds, "started": started, "report": device["device"]["report"],
        "components": device["components"],
    }))
}

/// (e) A first release brings the application.
pub(super) fn first_release(site: &Site) -> anyhow::Result<Value> {
    releases::publish(&site.stage, Plan { version: "1.0.1", os: None, has_app: true })?;
    roll_out(site, "1.0.1")
}

/// (f) The second replaces operating system and application.
pub(super) fn second_release(site: &Site, images: &Images) -> anyhow::Result<Value> {
    let before = site.stage.device()?;
    releases::publish(&site.stage, Plan { version: "1.1.0", os: Some(&images.second), has_app: true })?;
    let evidence = roll_out(site, "1.1.0")?;
    ensure!(
        evidence["slot"] != before["device"]["report"]["slot"],
        "the board still runs in slot {}",
        evidence["slot"]
    );
    Ok(evidence)
}

/// Rolls a published release out and checks that the board runs it.
fn roll_out(site: &Site, version: &str) -> anyhow::Result<Value> {
    let stage = &site.stage;
    let rollout = start_rollout(stage, version)?;
    let (seconds, code, stderr) = watch(stage, &rollout)?;
    ensure!(code == 0, "the rollout ended with {code}: {stderr}");
    let device = runs(site, version)?;
    let body = await_http(stage, &greeting(version))?;
    note(&format!("http://127.0.0.1:{}/ answers `{body}`", stage.port));
    Ok(json!({
        "rollout": rollout, "seconds": seconds.round(), "http": body, "slot": device["device"]["report"]["slot"],
        "components": device["components"],
    }))
}

/// Waits until the board reports this version, with its application.
fn runs(site: &Site, version: &str) -> anyhow::Result<Value> {
    let device = site.stage.await_device(&format!("the board to run {version}"), |device| {
        device["device"]["connected"] == true && device["device"]["report"]["running_version"] == version
    })?;
    let (app, _) = component(&device, &format!("application/{APP}"))?;
    ensure!(app == version, "the board reports the application {app}");
    Ok(device)
}

/// (g) The third's kernel panics at every start: the loader's tries are used up, and the board is where it was.
pub(super) fn bad_release(site: &mut Site, images: &Images) -> anyhow::Result<Value> {
    releases::publish(&site.stage, Plan { version: "1.2.0", os: Some(&images.bad), has_app: false })?;
    let before = site.machine.said().len();
    let rollout = start_rollout(&site.stage, "1.2.0")?;
    let (seconds, code, stderr) = watch(&site.stage, &rollout)?;
    ensure!(code == 5, "watching a rollout that stops must end with 5, not {code}: {stderr}");
    let shown = until(site.stage.patience, "the board to have gone back", || {
        let shown = site.stage.json(&["rollout", "show", &rollout])?;
        Ok((shown["devices"][0]["state"] == "rolled_back").then_some(shown))
    })?;
    let said = site.machine.said();
    let said = said.get(before..).context("the serial port said less than before")?;
    let panics = said.matches("Kernel panic - not syncing: sysrq triggered crash").count();
    ensure!(panics > 0, "the kernel of 1.2.0 never panicked");
    runs(site, "1.1.0")?;
    let body = await_http(&site.stage, &greeting("1.1.0"))?;
    let reason = &shown["devices"][0]["reason"];
    note(&format!("panicked {panics} times, runs 1.1.0 again: {}", text(reason, "/text")?));
    Ok(
        json!({ "rollout": shown["rollout"], "reason": reason, "panics": panics, "seconds": seconds.round(), "http": body }),
    )
}
