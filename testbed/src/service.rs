//! A real `mbl-service` in a folder of its own on loopback, which can be killed and started again at the same addresses.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::Context as _;
use serde::Deserialize;

use crate::{Running, programs::program, until};

/// How long the service may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// The four ports, as the service writes them into `addresses.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Addresses {
    /// REST over HTTPS.
    pub api: SocketAddr,
    /// Bootstrap and enrolment.
    pub bootstrap: SocketAddr,
    /// LwM2M management.
    pub lwm2m: SocketAddr,
    /// Artifacts and metadata.
    pub artifacts: SocketAddr,
}

/// The service and its data folder.
#[derive(Debug)]
pub struct Service {
    data_dir: PathBuf,
    flags: Vec<String>,
    addresses: Addresses,
    process: Option<Running>,
}

impl Service {
    /// Starts the service in `data_dir`, on free ports the first time.
    ///
    /// # Errors
    /// If it does not listen within half a minute.
    pub fn start(data_dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(data_dir, &[])
    }

    /// Starts the service with further flags.
    ///
    /// # Errors
    /// If it does not listen within half a minute.
    pub fn start_with(data_dir: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, addresses) =
            Self::launch(data_dir, &flags, &Addresses { api: any, bootstrap: any, lwm2m: any, artifacts: any })?;
        Ok(Self { data_dir: data_dir.to_owned(), flags, addresses, process: Some(process) })
    }

    fn launch(data_dir: &Path, flags: &[String], listen: &Addresses) -> anyhow::Result<(Running, Addresses)> {
        let file = data_dir.join("addresses.json");
        match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("cannot remove old addresses"),
            _ => {}
        }
        let mut command = Command::new(program("mbl-service")?);
        command.arg("run").arg("--data-dir").arg(data_dir).args(flags).args(["--public-host", "127.0.0.1"]);
        for (flag, address) in [
            ("--listen-api", listen.api),
            ("--listen-bootstrap", listen.bootstrap),
            ("--listen-lwm2m", listen.lwm2m),
            ("--listen-artifacts", listen.artifacts),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        let mut process = Running::start("mbl-service", &mut command, &data_dir.with_extension("log"))?;
        let addresses = until(PATIENCE, "the service to listen", || {
            anyhow::ensure!(process.is_running()?, "it ended: {}", process.output()?);
            match fs::read(&file) {
                Ok(text) => Ok(Some(serde_json::from_slice(&text).context("cannot read addresses.json")?)),
                Err(_) => Ok(None),
            }
        })?;
        Ok((process, addresses))
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Everything it has logged.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        let path = self.data_dir.with_extension("log");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Running::id)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If the process cannot be signalled.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), Running::kill)
    }

    /// SIGTERM and the orderly end.
    ///
    /// # Errors
    /// If it does not end within half a minute.
    pub fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.take().map(|process| process.stop(PATIENCE)).transpose()
    }

    /// Starts it again at the same addresses.
    ///
    /// # Errors
    /// If it does not listen within half a minute.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let (process, addresses) = Self::launch(&self.data_dir, &self.flags, &self.addresses)?;
        self.process = Some(process);
        self.addresses = addresses;
        Ok(())
    }
}
