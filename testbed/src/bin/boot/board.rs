//! A board with its identity, and a service that it registers with.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use image_builder::image::{HOST_ADDRESS, Manifest, Reach};
use testbed::{Machine, Stage};

use crate::times::{SAY, Times};

const ENDPOINT: &str = "gate-1";
/// Nothing helps to emulate the board.
const PATIENCE: Duration = Duration::from_secs(1800);
/// What the board's first program says when it goes on to the system.
const STARTED: &str = "mbl-init: starting slot";
const ANSWER: Duration = Duration::from_secs(120);
/// Waits for the first line of the agent's that says so; `grep` ends with it, and nothing waits for the journal.
const REGISTERED: &str = "grep --max-count=1 'registered with the service' \
    < <(journalctl --boot --unit=mbl-agent --no-tail --follow --output=json)";
/// The field with the microseconds since the kernel began (systemd.journal-fields(7)).
const SINCE_KERNEL: &str = "\"__MONOTONIC_TIMESTAMP\":\"";

/// A board, and the service around it.
#[derive(Debug)]
pub(crate) struct Board {
    machine: Machine,
    /// Ends when it is dropped.
    _stage: Stage,
}

impl Board {
    /// A new board with the signed build in `build`, which has its identity and is off.
    pub(crate) fn provisioned(build: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let stage = Stage::around(folder, ENDPOINT, PATIENCE, &["--public-host", HOST_ADDRESS])?;
        let mut machine = Machine::new(build, &folder.join("machine"))?;
        let at = stage.service.addresses();
        let ports = [at.bootstrap, at.lwm2m, at.artifacts].map(|address| address.port());
        machine.reach(ports.map(|port| Reach { port, answered_by: port }).to_vec());
        let data = stage.service.data_dir().display().to_string();
        stage.mbl(&["service", "token", "--data-dir", &data, "--host", "127.0.0.1"])?;
        stage.mbl(&["keys", "init", "--dir", "keys"])?;
        stage.mbl(&["keys", "publish", "--dir", "keys"])?;
        stage.mbl(&["factory", "authority", "init", "--dir", "factory"])?;
        stage.mbl(&["factory", "authority", "upload", "--dir", "factory"])?;
        let manifest = Manifest::load(build)?;
        let device = machine.command()?;
        let device = [device.get_program()].into_iter().chain(device.get_args());
        let device: Vec<String> = device.map(|word| word.to_string_lossy().into_owned()).collect();
        let mut words =
            vec!["factory", "provision", "--endpoint", ENDPOINT, "--authority", "factory", "--keys", "keys"];
        words.extend(["--board", manifest.board.as_str(), "--architecture", "aarch64", "--patience", "1800", "--"]);
        words.extend(device.iter().map(String::as_str));
        stage.mbl(&words)?;
        Ok(Self { machine, _stage: stage })
    }

    /// Turns it on, waits until it is registered, and turns it off.
    pub(crate) fn start(&mut self) -> anyhow::Result<Times> {
        self.machine.power_on()?;
        // The prompts of earlier starts stand before it.
        self.machine.until_says(STARTED, PATIENCE)?;
        self.machine.until_prompt(PATIENCE)?;
        let line = self.machine.shell(REGISTERED, PATIENCE)?;
        let since = line.split_once(SINCE_KERNEL).and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
        let since = since.with_context(|| format!("the journal does not say when it was: {line}"))?;
        let times =
            Times::parse(&self.machine.shell(&SAY.join("; "), ANSWER)?)?.registered(Duration::from_micros(since));
        self.machine.type_line("systemctl poweroff")?;
        self.machine.until_off(PATIENCE)?;
        Ok(times)
    }
}
