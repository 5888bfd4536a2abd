//! Step (h): SIGKILL in the middle of an update, once for the service and once for each process of the device. Everything converges.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testbed::{Stage, stage::greeting, until, wait::until_every};

use super::{
    PATIENCE, life,
    releases::{self, Plan},
};
use crate::{
    report::note,
    stage::{await_http, start_rollout, watch},
};

/// Who is killed in the middle of which update.
const VICTIMS: [(&str, &str); 4] =
    [("mbl-service", "1.4.0"), ("mbl-agent", "1.5.0"), ("mbl-updater", "1.6.0"), ("mbl-apps", "1.7.0")];

/// Kills each in turn.
pub(crate) fn sudden_deaths(stage: &mut Stage) -> anyhow::Result<Value> {
    let mut evidence = serde_json::Map::new();
    for (victim, version) in VICTIMS {
        let seen = sudden_death(stage, victim, version).with_context(|| format!("when {victim} was killed"))?;
        evidence.insert(victim.to_owned(), seen);
    }
    Ok(Value::Object(evidence))
}

fn sudden_death(stage: &mut Stage, victim: &str, version: &str) -> anyhow::Result<Value> {
    let built = releases::publish(stage, Plan::ordinary(version, 1))?;
    let (killed, updater) = (process(stage, victim)?, process(stage, "mbl-updater")?);
    let (before, total) = (written(updater)?, system_bytes(stage, version)?);
    // Somebody must already be watching when it begins: on a quick machine the middle is over before the command line returns.
    let watcher = thread::spawn(move || {
        let done = await_middle(updater, before)?;
        kill(killed).map(|()| done)
    });
    let rollout = start_rollout(stage, version)?;
    let done = watcher.join().map_err(|_| anyhow::anyhow!("the watcher of the update panicked"))??;
    ensure!(done < total, "{done} of {total} bytes were written already");
    note(&format!("killed {victim} (process {killed}) when {done} of {total} bytes were written"));
    if victim == "mbl-service" {
        stage.service.restart()?;
    }
    let (seconds, code, stderr) = watch(stage, &rollout)?;
    ensure!(code == 0, "the rollout ended with {code}: {stderr}");
    let device = life::runs(stage, version, &built)?;
    let body = await_http(stage, &greeting(version))?;
    let again = process(stage, victim)?;
    ensure!(again != killed, "{victim} was not killed");
    Ok(json!({
        "release": version, "killed_process": killed, "bytes_written": done, "of_bytes": total, "runs_again_as_process": again,
        "seconds_to_converge": (seconds * 10.0).round() / 10.0, "http": body,
        "running_digest": device["device"]["report"]["running_digest"],
    }))
}

/// Bytes that the updater has written when it is disturbed: well within an operating system.
const ENOUGH: u64 = 4 << 20;

/// Waits until the updater has written a good piece of the new operating system; tells how much. An update takes less than a
/// second, and one that is over before it could be disturbed shows nothing.
fn await_middle(updater: u32, before: u64) -> anyhow::Result<u64> {
    until_every(Duration::from_millis(1), PATIENCE, "the update to be in its middle", || {
        let done = written(updater)? - before;
        Ok((done >= ENOUGH).then_some(done))
    })
}

/// Bytes that a process has written in its life (proc(5), `/proc/PID/io`).
fn written(process: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/io")).context("the process is gone")?;
    let count = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    Ok(count.context("the kernel counts no writes")?.trim().parse()?)
}

/// Bytes of the operating system of a release.
fn system_bytes(stage: &Stage, version: &str) -> anyhow::Result<u64> {
    let text = fs::read(stage.at_operator(&format!("os-{version}/os.json"))).context("there is no OS index")?;
    let index: Value = serde_json::from_slice(&text)?;
    let sections = index["sections"].as_array().context("the OS index has no sections")?;
    Ok(sections.iter().filter_map(|section| section["size"].as_u64()).sum())
}

fn kill(id: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("process id out of range")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill the process {id}"))
}

/// The process id of the service or of a process of the device.
fn process(stage: &Stage, name: &str) -> anyhow::Result<u32> {
    if name == "mbl-service" {
        return stage.service.id().context("the service is down");
    }
    until(Duration::from_secs(30), &format!("{name} to run"), || stage.process(name))
}
