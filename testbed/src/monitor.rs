//! What QEMU is told while a machine runs (QEMU Machine Protocol): one connection for each command. Never keeps one open.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Lines that may come before the answer: events that nobody asked about.
const LINES: usize = 1000;

/// Gives QEMU at this socket one command and waits until it has done it; what it answers.
///
/// # Errors
/// If it does not answer, or with an error.
pub fn tell(socket: &Path, command: &str, arguments: &Value) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(socket).with_context(|| format!("cannot reach QEMU at {}", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT)).context("cannot limit the wait for QEMU")?;
    let mut lines = BufReader::new(stream.try_clone().context("cannot share the connection to QEMU")?).lines();
    let mut perform = |command: Value| {
        writeln!(&stream, "{command}").context("cannot tell QEMU")?;
        answer(&mut lines).with_context(|| format!("QEMU did not do {command}"))
    };
    perform(json!({ "execute": "qmp_capabilities" }))?;
    perform(json!({ "execute": command, "arguments": arguments }))
}

fn answer(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> anyhow::Result<Value> {
    for line in lines.by_ref().take(LINES) {
        let line = line.context("no answer")?;
        let said: Value = serde_json::from_str(&line).context("the answer is no JSON")?;
        if let Some(value) = said.get("return") {
            return Ok(value.clone());
        }
        if let Some(error) = said.get("error") {
            bail!("{error}");
        }
    }
    bail!("it ended")
}
