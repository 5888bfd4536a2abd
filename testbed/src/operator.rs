//! A person at the command line: `mbl` with a configuration folder of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::Context as _;
use serde_json::Value;

use crate::programs::program;

/// One person's `mbl`.
#[derive(Clone, Debug)]
pub struct Operator {
    config_dir: PathBuf,
    folder: PathBuf,
}

impl Operator {
    /// A person who works in `folder` and keeps contexts in `config_dir`.
    pub fn new(config_dir: &Path, folder: &Path) -> Self {
        Self { config_dir: config_dir.to_owned(), folder: folder.to_owned() }
    }

    /// The command `mbl ARGUMENTS`, not yet run.
    ///
    /// # Errors
    /// If `mbl` was not built.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program("mbl")?);
        command.args(arguments).current_dir(&self.folder).env("MBL_CONFIG_DIR", &self.config_dir).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `mbl ARGUMENTS`, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(arguments)?.output().with_context(|| format!("cannot run mbl {}", arguments.join(" ")))
    }

    /// Runs `mbl ARGUMENTS`, which must succeed, and gives back what it printed.
    ///
    /// # Errors
    /// With both outputs if its exit status is not 0.
    pub fn succeed(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(
            output.status.success(),
            "mbl {} ended with {}\n{stdout}{stderr}",
            arguments.join(" "),
            output.status
        );
        Ok(stdout.into_owned())
    }

    /// Runs `mbl --json ARGUMENTS`, which must succeed, and reads the document it printed.
    ///
    /// # Errors
    /// As [`Operator::succeed`], or if the output is not JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut with_flag = vec!["--json"];
        with_flag.extend_from_slice(arguments);
        let text = self.succeed(&with_flag)?;
        serde_json::from_str(&text).with_context(|| format!("mbl {} printed no JSON: {text}", arguments.join(" ")))
    }
}
