//! What the demo does on its stage, with the command line that a person would have typed on the screen.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use testbed::{Running, Stage, until};

use crate::report::note;

/// The device's name.
pub(crate) const ENDPOINT: &str = "demo-1";

/// Runs `mbl` with arguments that are typed in one line.
pub(crate) fn type_line(stage: &Stage, line: &str) -> anyhow::Result<String> {
    note(&format!("$ mbl {line}"));
    stage.mbl(&line.split(' ').collect::<Vec<_>>())
}

/// Waits until the application answers with `body`.
pub(crate) fn await_http(stage: &Stage, body: &str) -> anyhow::Result<String> {
    until(Duration::from_secs(30), &format!("the application to answer `{body}`"), || {
        let said = stage.http("/")?;
        Ok((said == body).then_some(said))
    })
}

/// Watches a rollout to its end: seconds, exit code of `mbl rollout watch`, and the last lines it printed.
pub(crate) fn watch(stage: &Stage, id: &str) -> anyhow::Result<(f64, i32, String)> {
    let began = Instant::now();
    note(&format!("$ mbl rollout watch {id}"));
    let limit = stage.patience.as_secs().to_string();
    let (code, stdout, stderr) = stage.try_mbl(&["rollout", "watch", id, "--time-limit", &limit])?;
    for line in stdout.lines() {
        note(line);
    }
    Ok((began.elapsed().as_secs_f64(), code, stderr))
}

/// Starts a rollout of `version` to every device and returns its id.
pub(crate) fn start_rollout(stage: &Stage, version: &str) -> anyhow::Result<String> {
    note(&format!("$ mbl rollout start {version} --all"));
    let rollout = stage.json(&["rollout", "start", version, "--all"])?;
    Ok(text(&rollout, "/id")?.to_owned())
}

/// Stops the device and the service as a person would, and reports what does not stop.
pub(crate) fn strike(stage: &mut Stage) -> anyhow::Result<()> {
    stage.power_off()?;
    stage.service.stop().context("the service does not stop")?;
    Ok(())
}

/// Leaves everything running when this program ends; the process ids of service and board.
pub(crate) fn leave(stage: Stage) -> (Option<u32>, Option<u32>) {
    let ids = (stage.service.id(), stage.board.as_ref().map(Running::id));
    std::mem::forget(stage);
    ids
}

/// The text at a JSON pointer.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("there is no text at {pointer} of {value}"))
}

/// The digest of a component that the device reports, such as `os`.
pub(crate) fn component(device: &Value, name: &str) -> anyhow::Result<(String, String)> {
    let components =
        device.pointer("/components").and_then(Value::as_array).context("the device reports no components")?;
    let found = components.iter().find(|component| component.pointer("/name").and_then(Value::as_str) == Some(name));
    let found = found.with_context(|| format!("the device reports no component `{name}`"))?;
    Ok((text(found, "/version")?.to_owned(), text(found, "/digest")?.to_owned()))
}
