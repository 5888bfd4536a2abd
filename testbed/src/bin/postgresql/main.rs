//! Runs a command beside a PostgreSQL server of its own, in which each service under test has a database: `postgresql COMMAND...`.

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use testbed::database::SERVER;

#[path = "../../../../fleet/store/src/tests/postgres.rs"]
#[expect(clippy::unwrap_used, clippy::expect_used, reason = "a server that cannot be started ends this program")]
mod postgres;

fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().context("say which command to run: `postgresql COMMAND...`")?;
    let server = postgres::Server::start();
    let mut command = Command::new(&program);
    let status = command.args(words).env(SERVER, server.url()).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    drop(server);
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
