//! A program that runs as long as its handle lives, its output in a file that a failing test can show.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::until;

/// A started program. Dropping it kills exactly this process.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let again = file.try_clone().with_context(|| format!("cannot share the log {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("cannot read the log {}", self.log.display()))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().with_context(|| format!("cannot ask for {}", self.name))?.is_none())
    }

    /// SIGKILL: what a power cut looks like to the program.
    ///
    /// # Errors
    /// If it cannot be signalled or waited for.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, then waits for the orderly end.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn stop(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
        kill_process(id, Signal::TERM).with_context(|| format!("cannot signal {}", self.name))?;
        let what = format!("{} to stop", self.name);
        until(limit, &what, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nothing can be told from a destructor; a process that is gone already is what was wanted.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The child of `parent` with this name, from `/proc/PID/stat` (proc(5): the name stands in brackets, the parent two words later).
///
/// # Errors
/// If there is no `/proc`.
pub fn child_of(parent: u32, name: &str) -> anyhow::Result<Option<u32>> {
    for entry in fs::read_dir("/proc").context("cannot list the processes")? {
        let entry = entry.context("cannot list the processes")?.file_name();
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
