//! Where the programs under test lie: beside the test that runs, built by `./test` or `./demo`.

use std::path::PathBuf;

use anyhow::Context as _;

/// The path of one of our programs, such as `mbl-service`.
///
/// # Errors
/// If it was not built, with the command that builds it.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let mut folder = std::env::current_exe().context("cannot find the running test's own path")?;
    // target/debug/deps/journeys-0123, target/debug/examples/demo and target/debug/demo all lie below target/debug.
    while folder.pop() {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
        if folder.ends_with("target") {
            break;
        }
    }
    anyhow::bail!("`{name}` is not built; run `cargo build --workspace --bins` first")
}
