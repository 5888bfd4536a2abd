//! The stage of journeys and demo: a folder with an operator at the command line, the service, and one device on the board `host`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{Operator, Running, Service, process::child_of, programs::program, until};

/// The application's name.
pub const APP: &str = "hello";

/// Who plays and where. Nothing but real programs.
#[derive(Debug)]
pub struct Stage {
    /// Where everything lies.
    pub folder: PathBuf,
    /// The device's name.
    pub endpoint: &'static str,
    /// How long anything on the device or between device and service may take.
    pub patience: Duration,
    /// The person at the command line.
    pub operator: Operator,
    /// The service.
    pub service: Service,
    /// The board, while it is on.
    pub board: Option<Running>,
    /// The port of the application.
    pub port: u16,
}

impl Stage {
    /// Prepares the folder, which is there, and starts the service in it; the device is one on the board `host`.
    ///
    /// # Errors
    /// If a program was not built, the folder cannot be written, or the service does not start.
    pub fn set(folder: &Path, endpoint: &'static str, patience: Duration) -> anyhow::Result<Self> {
        Self::set_with(folder, endpoint, patience, &[])
    }

    /// As [`Stage::set`], with flags for the service.
    ///
    /// # Errors
    /// As there.
    pub fn set_with(
        folder: &Path,
        endpoint: &'static str,
        patience: Duration,
        service_flags: &[&str],
    ) -> anyhow::Result<Self> {
        for name in ["bin", "device"] {
            fs::create_dir_all(folder.join(name)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // The agent runs as an unprivileged user, who may not be able to reach the folder of this build.
        for name in ["mbl-host-board", "mbl-agent", "mbl-updater", "mbl-apps"] {
            fs::copy(program(name)?, folder.join("bin").join(name)).with_context(|| format!("cannot copy {name}"))?;
        }
        Self::around(folder, endpoint, patience, service_flags)
    }

    /// As [`Stage::set`], around a device of another kind, for which the service may need flags.
    ///
    /// # Errors
    /// As there.
    pub fn around(
        folder: &Path,
        endpoint: &'static str,
        patience: Duration,
        service_flags: &[&str],
    ) -> anyhow::Result<Self> {
        let desk = folder.join("operator");
        fs::create_dir_all(&desk).with_context(|| format!("cannot make {}", desk.display()))?;
        fs::write(folder.join("operator/passphrase"), "correct horse battery staple\n")
            .context("cannot write the passphrase")?;
        let operator = Operator::new(&folder.join("operator/config"), &folder.join("operator"));
        let service = Service::start_with(&folder.join("service"), service_flags)?;
        // Free at this moment, and nothing else on this machine is likely to want it.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).context("no port is free")?.port();
        Ok(Self { folder: folder.to_owned(), endpoint, patience, operator, service, board: None, port })
    }

    /// A file or folder in the operator's folder, where `mbl` runs.
    pub fn at_operator(&self, name: &str) -> PathBuf {
        self.folder.join("operator").join(name)
    }

    /// Runs `mbl ARGUMENTS`: exit code, standard output, standard error.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn try_mbl(&self, arguments: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let mut command = self.operator.command(arguments)?;
        let output = command.env("MBL_PASSPHRASE_FILE", self.at_operator("passphrase")).output();
        let output = output.with_context(|| format!("cannot run mbl {}", arguments.join(" ")))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
    }

    /// Runs `mbl ARGUMENTS` as a person would type it; it must succeed.
    ///
    /// # Errors
    /// With what it said if its exit status is not 0.
    pub fn mbl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (code, stdout, stderr) = self.try_mbl(arguments)?;
        ensure!(code == 0, "mbl {} ended with {code}: {stderr}", arguments.join(" "));
        Ok(stdout)
    }

    /// Runs `mbl --json ARGUMENTS` and reads the document.
    ///
    /// # Errors
    /// As [`Stage::mbl`], or if it printed no JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.mbl(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("mbl {} printed no JSON", arguments.join(" ")))
    }

    /// The folder of the device.
    pub fn device_dir(&self) -> PathBuf {
        self.folder.join("device")
    }

    /// A program of the device, as `bin/mbl-agent`.
    pub fn device_program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// Writes the operating system of the factory on the device's disk, with room for slots of `slot_bytes`.
    ///
    /// # Errors
    /// If the updater refuses.
    pub fn format_disk(&self, os: &Path, slot_bytes: u64) -> anyhow::Result<()> {
        let output = Command::new(self.device_program("mbl-updater"))
            .args(["format", "--slot-bytes", &slot_bytes.to_string(), "--device-dir"])
            .arg(self.device_dir())
            .arg("--os")
            .arg(os)
            .output()
            .context("cannot run mbl-updater format")?;
        ensure!(output.status.success(), "mbl-updater format: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The arguments of `mbl` that give the device its identity from the factory authority and the keys in these folders.
    pub fn provisioning(&self, authority: &str, keys: &str) -> Vec<String> {
        let agent = self.device_program("mbl-agent").display().to_string();
        let device = self.device_dir().display().to_string();
        let mut words = vec!["factory", "provision", "--endpoint", self.endpoint, "--authority", authority];
        words.extend(["--keys", keys, "--", &agent, "factory", "--device-dir", &device]);
        words.extend(["--endpoint", self.endpoint, "--account", "default"]);
        words.into_iter().map(str::to_owned).collect()
    }

    /// Turns the device on.
    ///
    /// # Errors
    /// If the board cannot be started.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(self.device_program("mbl-host-board"));
        command.arg("--device-dir").arg(self.device_dir());
        self.power_on_by(command)
    }

    /// Turns the device on by a command that ends in `mbl-host-board`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn power_on_by(&mut self, mut command: Command) -> anyhow::Result<()> {
        self.board = Some(Running::start("mbl-host-board", &mut command, &self.folder.join("board.log"))?);
        Ok(())
    }

    /// Turns the device off in order, so that no container goes on; no error if it is off.
    ///
    /// # Errors
    /// If it does not stop within half a minute.
    pub fn power_off(&mut self) -> anyhow::Result<()> {
        if let Some(board) = self.board.take() {
            board.stop(Duration::from_secs(30)).context("the device does not stop")?;
        }
        Ok(())
    }

    /// The process of the device that runs this program, if there is one.
    ///
    /// # Errors
    /// If the device is off.
    pub fn process(&self, name: &str) -> anyhow::Result<Option<u32>> {
        child_of(self.board.as_ref().context("the device is off")?.id(), name)
    }

    /// Everything that the service says of the device.
    ///
    /// # Errors
    /// If it does not say.
    pub fn device(&self) -> anyhow::Result<Value> {
        self.json(&["device", "show", self.endpoint])
    }

    /// Waits until the device looks as `wanted` says.
    ///
    /// # Errors
    /// If it never does.
    pub fn await_device(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        until(self.patience, what, || {
            let device = self.device()?;
            Ok(wanted(&device).then_some(device))
        })
    }

    /// Waits until the device is registered and has said what it runs.
    ///
    /// # Errors
    /// If it never is.
    pub fn await_registered(&self) -> anyhow::Result<Value> {
        self.await_device("the device to register", |device| {
            device["device"]["connected"] == true && device["device"]["report"]["running_version"].is_string()
        })
    }

    /// The recipe of [`APP`], a web server made of busybox. One that never becomes ready serves everything but the page that says so.
    pub fn recipe(&self, version: &str, is_ready: bool) -> String {
        let (port, arch) = (self.port, std::env::consts::ARCH);
        let page = if is_ready { "ready" } else { "warming-up" };
        format!(
            r#"name = "{APP}"
version = "{version}"
architecture = "{arch}"
entrypoint = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "/www"]

[[files]]
target = "/bin/busybox"
source = "/bin/busybox"
mode = 0o755

[[files]]
target = "/www/index.html"
text = "{greeting}\n"

[[files]]
target = "/www/{page}"
text = "yes\n"

[run]
network = "host"
memory_bytes = 33554432
pids = 16
ready = {{ command = ["/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:{port}/ready"], interval_s = 1, timeout_s = 2 }}
"#,
            greeting = greeting(version)
        )
    }

    /// Asks the application over HTTP, as a browser would.
    ///
    /// # Errors
    /// If it does not answer within two seconds, or not with 200.
    pub fn http(&self, path: &str) -> anyhow::Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&address, limit).context("the application does not answer")?;
        stream.set_read_timeout(Some(limit)).context("cannot limit the wait for the application")?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").context("the application hung up")?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer).context("the application broke off")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the application speaks no HTTP")?;
        ensure!(head.contains(" 200 "), "the application answered {}", head.lines().next().unwrap_or_default());
        Ok(body.trim_end().to_owned())
    }
}

/// What the application of `version` answers at `/`.
pub fn greeting(version: &str) -> String {
    format!("hello from {version}")
}
