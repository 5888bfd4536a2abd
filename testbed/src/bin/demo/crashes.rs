//! Step (h): SIGKILL in the middle of an update, once for the service and once for each process of the device. Everything converges.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testbed::until;

use crate::{
    life,
    releases::{self, Plan, greeting},
    report::note,
    stage::{PATIENCE, Stage},
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
    let rollout = stage.start_rollout(version)?;
    let (done, total) = until(PATIENCE, "the update to be in its middle", || middle(stage))?;
    let killed = kill(stage, victim)?;
    note(&format!("killed {victim} (process {killed}) at {done} of {total} bytes"));
    if victim == "mbl-service" {
        stage.service.restart()?;
    }
    let (seconds, code, stderr) = stage.watch(&rollout)?;
    ensure!(code == 0, "the rollout ended with {code}: {stderr}");
    let device = life::runs(stage, version, &built)?;
    let body = stage.await_http(&greeting(version))?;
    let again = process(stage, victim)?;
    ensure!(again != killed, "{victim} was not killed");
    Ok(json!({
        "release": version, "killed_process": killed, "at_byte": done, "of_bytes": total, "runs_again_as_process": again,
        "seconds_to_converge": (seconds * 10.0).round() / 10.0, "http": body,
        "running_digest": device["device"]["report"]["running_digest"],
    }))
}

/// Bytes in place and in all, if the device is in the middle of a download.
fn middle(stage: &Stage) -> anyhow::Result<Option<(u64, u64)>> {
    // What the updater itself says, which is quicker than asking through the service.
    let Ok(text) = fs::read(stage.device_dir().join("run/update-status.json")) else { return Ok(None) };
    let status: Value = serde_json::from_slice(&text).context("the updater's status is malformed")?;
    let (done, total) = (status["progress"][0].as_u64(), status["progress"][1].as_u64());
    let (Some(done), Some(total)) = (done, total) else { return Ok(None) };
    Ok((status["phase"] == "downloading" && done > 0 && done < total).then_some((done, total)))
}

fn kill(stage: &mut Stage, victim: &str) -> anyhow::Result<u32> {
    let id = process(stage, victim)?;
    if victim == "mbl-service" {
        stage.service.kill()?;
        return Ok(id);
    }
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("process id out of range")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill {victim}"))?;
    Ok(id)
}

/// The process id of the service or of a process of the device.
fn process(stage: &Stage, name: &str) -> anyhow::Result<u32> {
    if name == "mbl-service" {
        return stage.service.id().context("the service is down");
    }
    let board = stage.board_id()?;
    until(Duration::from_secs(30), &format!("{name} to run"), || child(board, name))
}

/// The child of `parent` with this name, from `/proc/PID/stat` (proc(5): the name stands in brackets, the parent two words later).
fn child(parent: u32, name: &str) -> anyhow::Result<Option<u32>> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?.file_name();
        let Some(id) = entry.to_str().and_then(|text| text.parse::<u32>().ok()) else { continue };
        // A process that ends meanwhile is none that runs.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let is_child = tail.split_whitespace().nth(1).and_then(|text| text.parse().ok()) == Some(parent);
        if is_child && head.split_once('(').is_some_and(|(_, comm)| comm == name) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}
