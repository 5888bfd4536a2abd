//! `demo`: the whole loop on real input, with the real programs as separate processes, driven as a person would. Shows only what it
//! has observed.

mod board;
mod host;
mod report;
mod stage;

use std::{env, fs, process::ExitCode};

use anyhow::Context as _;

use crate::report::{Report, say};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let (mut once, mut on_host) = (false, false);
    for word in env::args().skip(1) {
        match word.as_str() {
            "--once" => once = true,
            "--host" => on_host = true,
            other => anyhow::bail!("`{other}` is not known; the options are `--host` and `--once`"),
        }
    }
    let started_from = env::current_dir().context("cannot find the current folder")?;
    // Not inside of the tree: sockets have short names, and the device's agent is a user who may not see the tree.
    let folder = env::temp_dir().join(format!("mbl-demo-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    say(&format!("everything of this demo lies in {}", folder.display()));
    let mut report = Report::new(&started_from);
    if on_host {
        host::run(&folder, &mut report, once)?;
    } else {
        board::run(&folder, &mut report, once)?;
    }
    if once {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}
