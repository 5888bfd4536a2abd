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

use crate::{Running, database, programs::program, until};

/// How long the service may take to start or to stop. A new database in PostgreSQL is brought to its newest form first.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// The file of its settings, as the test wrote it.
    given: Option<PathBuf>,
    /// Its other flags.
    flags: Vec<String>,
    /// The address of its PostgreSQL database; without one it is embedded.
    database: Option<String>,
    addresses: Addresses,
    process: Option<Running>,
}

impl Service {
    /// Starts the service in `data_dir`, on free ports the first time.
    ///
    /// # Errors
    /// If it does not listen within a minute.
    pub fn start(data_dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(data_dir, &[])
    }

    /// Starts the service with further flags.
    ///
    /// # Errors
    /// If it does not listen within a minute.
    pub fn start_with(data_dir: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        make(data_dir)?;
        Self::start_on(data_dir, flags, database::of(data_dir)?)
    }

    /// Starts the service on the embedded database, whichever one the tests are about.
    ///
    /// # Errors
    /// If it does not listen within a minute.
    pub fn start_embedded(data_dir: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        make(data_dir)?;
        Self::start_on(data_dir, flags, None)
    }

    fn start_on(data_dir: &Path, flags: &[&str], database: Option<String>) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut words = flags.iter().map(|&flag| flag.to_owned());
        let mut service = Self {
            data_dir: data_dir.to_owned(),
            given: None,
            flags: Vec::new(),
            database,
            addresses: Addresses { api: any, bootstrap: any, lwm2m: any, artifacts: any },
            process: None,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--config" => service.given = words.next().map(PathBuf::from),
                _ => service.flags.push(word),
            }
        }
        service.launch()?;
        Ok(service)
    }

    /// Starts the process at the addresses that are known.
    fn launch(&mut self) -> anyhow::Result<()> {
        let file = self.data_dir.join("addresses.json");
        match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("cannot remove old addresses"),
            _ => {}
        }
        let mut command = self.command("run")?;
        command.args(&self.flags).args(["--public-host", "127.0.0.1"]);
        let listen = &self.addresses;
        for (flag, address) in [
            ("--listen-api", listen.api),
            ("--listen-bootstrap", listen.bootstrap),
            ("--listen-lwm2m", listen.lwm2m),
            ("--listen-artifacts", listen.artifacts),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        let mut process = Running::start("mbl-service", &mut command, &self.data_dir.with_extension("log"))?;
        self.addresses = until(PATIENCE, "the service to listen", || {
            anyhow::ensure!(process.is_running()?, "it ended: {}", process.output()?);
            match fs::read(&file) {
                Ok(text) => Ok(Some(serde_json::from_slice(&text).context("cannot read addresses.json")?)),
                Err(_) => Ok(None),
            }
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// The settings that the service was given, and those with its database in them, unless they name one themselves.
    fn settings(&self) -> anyhow::Result<Option<PathBuf>> {
        let Some(database) = &self.database else { return Ok(self.given.clone()) };
        let text = self.given.as_ref().map_or_else(|| Ok(String::new()), fs::read_to_string);
        let text = text.context("cannot read the settings of the service")?;
        if text.contains("database_url") {
            return Ok(self.given.clone());
        }
        let path = self.data_dir.with_extension("settings");
        fs::write(&path, format!("database_url = {database:?}\n{text}"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(path))
    }

    /// The program with another verb, such as `first-token`, on what this service keeps.
    ///
    /// # Errors
    /// If it was not built, or its settings cannot be read.
    pub fn command(&self, verb: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(program("mbl-service")?);
        command.arg(verb).arg("--data-dir").arg(&self.data_dir);
        if let Some(settings) = self.settings()? {
            command.arg("--config").arg(settings);
        }
        Ok(command)
    }

    /// Kills it and takes away everything that it kept on this machine. PostgreSQL is on another one, where it has a new, empty database.
    ///
    /// # Errors
    /// If something cannot be taken away.
    pub fn lose(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        fs::remove_dir_all(&self.data_dir).with_context(|| format!("cannot remove {}", self.data_dir.display()))?;
        if self.database.is_some() {
            database::lose(&self.data_dir)?;
            self.database = database::of(&self.data_dir)?;
        }
        Ok(())
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

    /// Whether its database holds `text` anywhere.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn keeps(&self, text: &str) -> anyhow::Result<bool> {
        let Some(address) = &self.database else {
            // What was written last may be in the second file alone.
            let mut found = false;
            for name in ["mbl.db", "mbl.db-wal"] {
                let path = self.data_dir.join(name);
                let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                found |= holds(&bytes, text);
            }
            return Ok(found);
        };
        let rows = database::rows(address)?;
        Ok(holds(&rows, text) || holds(&rows, &hex::encode(text)))
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
    /// If it does not end within a minute.
    pub fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.take().map(|process| process.stop(PATIENCE)).transpose()
    }

    /// Starts it again at the same addresses.
    ///
    /// # Errors
    /// If it does not listen within a minute.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.launch()
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

fn make(data_dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))
}
