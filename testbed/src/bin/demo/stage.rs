//! The stage: a folder, an operator at the command line, the service, one device made of files, and a browser.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Operator, Running, Service, programs::program, until};

use crate::report::note;

/// The device's name.
pub(crate) const ENDPOINT: &str = "demo-1";
/// The application's name.
pub(crate) const APP: &str = "hello";
/// Bytes of each slot: room for the operating system and some growth.
const SLOT_BYTES: u64 = 128 << 20;
/// How long anything on the device or between device and service may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Everything that the demo plays with.
pub(crate) struct Stage {
    /// Where everything lies.
    pub(crate) folder: PathBuf,
    /// Packages and trees that outlive the demo.
    pub(crate) cache: PathBuf,
    /// The person at the command line.
    pub(crate) operator: Operator,
    /// The service.
    pub(crate) service: Service,
    /// The board, once it was started.
    board: Option<Running>,
    /// The port of the application.
    pub(crate) port: u16,
}

impl Stage {
    /// Prepares the folder and starts the service in it.
    pub(crate) fn set(folder: &Path, cache: &Path) -> anyhow::Result<Self> {
        for name in ["bin", "operator", "device"] {
            fs::create_dir_all(folder.join(name)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // The agent runs as an unprivileged user, who may not be able to reach the folder of this build.
        for name in ["mbl-host-board", "mbl-agent", "mbl-updater", "mbl-apps"] {
            fs::copy(program(name)?, folder.join("bin").join(name)).with_context(|| format!("cannot copy {name}"))?;
        }
        fs::write(folder.join("operator/passphrase"), "a passphrase for the demo alone\n")?;
        let operator = Operator::new(&folder.join("operator/config"), &folder.join("operator"));
        let service = Service::start(&folder.join("service"))?;
        // Free at this moment, and nothing else on this machine is likely to want it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { folder: folder.to_owned(), cache: cache.to_owned(), operator, service, board: None, port })
    }

    /// Runs `mbl ARGUMENTS` as a person would type it; it must succeed.
    pub(crate) fn mbl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (ok, stdout, stderr) = self.try_mbl(arguments)?;
        ensure!(ok == 0, "mbl {} ended with {ok}: {stderr}", arguments.join(" "));
        Ok(stdout)
    }

    /// Runs `mbl ARGUMENTS`: exit code, standard output, standard error.
    pub(crate) fn try_mbl(&self, arguments: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let mut command = self.operator.command(arguments)?;
        let output = command.env("MBL_PASSPHRASE_FILE", self.folder.join("operator/passphrase")).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
    }

    /// Runs `mbl --json ARGUMENTS` and reads the document.
    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.mbl(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("mbl {} printed no JSON", arguments.join(" ")))
    }

    /// Runs `mbl` with arguments that are typed in one line.
    pub(crate) fn type_line(&self, line: &str) -> anyhow::Result<String> {
        note(&format!("$ mbl {line}"));
        self.mbl(&line.split(' ').collect::<Vec<_>>())
    }

    /// The folder of the device.
    pub(crate) fn device_dir(&self) -> PathBuf {
        self.folder.join("device")
    }

    /// A program of the device, as `bin/mbl-agent`.
    pub(crate) fn device_program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// Writes the operating system of the factory on the device's disk.
    pub(crate) fn format_disk(&self, os: &Path) -> anyhow::Result<()> {
        let output = Command::new(self.device_program("mbl-updater"))
            .args(["format", "--slot-bytes", &SLOT_BYTES.to_string(), "--device-dir"])
            .arg(self.device_dir())
            .arg("--os")
            .arg(os)
            .output()?;
        ensure!(output.status.success(), "mbl-updater format: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Turns the device on.
    pub(crate) fn power_on(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(self.device_program("mbl-host-board"));
        command.arg("--device-dir").arg(self.device_dir());
        self.board = Some(Running::start("mbl-host-board", &mut command, &self.folder.join("board.log"))?);
        Ok(())
    }

    /// The process of the board.
    pub(crate) fn board_id(&self) -> anyhow::Result<u32> {
        self.board.as_ref().map(Running::id).context("the device is off")
    }

    /// Everything that the service says of the device.
    pub(crate) fn device(&self) -> anyhow::Result<Value> {
        self.json(&["device", "show", ENDPOINT])
    }

    /// Waits until the device looks as `wanted` says.
    pub(crate) fn await_device(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        until(PATIENCE, what, || {
            let device = self.device()?;
            Ok(wanted(&device).then_some(device))
        })
    }

    /// Asks the application over HTTP, as a browser would.
    pub(crate) fn http(&self, path: &str) -> anyhow::Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&address, limit).context("the application does not answer")?;
        stream.set_read_timeout(Some(limit))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer).context("the application broke off")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the application speaks no HTTP")?;
        ensure!(head.contains(" 200 "), "the application answered {}", head.lines().next().unwrap_or_default());
        Ok(body.trim_end().to_owned())
    }

    /// Waits until the application answers with `body`.
    pub(crate) fn await_http(&self, body: &str) -> anyhow::Result<String> {
        until(Duration::from_secs(30), &format!("the application to answer `{body}`"), || {
            let said = self.http("/")?;
            Ok((said == body).then_some(said))
        })
    }

    /// Watches a rollout to its end: seconds, exit code of `mbl rollout watch`, and the last lines it printed.
    pub(crate) fn watch(&self, id: &str) -> anyhow::Result<(f64, i32, String)> {
        let began = Instant::now();
        note(&format!("$ mbl rollout watch {id}"));
        let limit = PATIENCE.as_secs().to_string();
        let (code, stdout, stderr) = self.try_mbl(&["rollout", "watch", id, "--time-limit", &limit])?;
        for line in stdout.lines() {
            note(line);
        }
        Ok((began.elapsed().as_secs_f64(), code, stderr))
    }

    /// Starts a rollout of `version` to every device and returns its id.
    pub(crate) fn start_rollout(&self, version: &str) -> anyhow::Result<String> {
        note(&format!("$ mbl rollout start {version} --all"));
        let rollout = self.json(&["rollout", "start", version, "--all"])?;
        Ok(text(&rollout, "/id")?.to_owned())
    }

    /// Stops the device and the service as a person would, and reports what does not stop.
    pub(crate) fn strike(&mut self) -> anyhow::Result<()> {
        if let Some(board) = self.board.take() {
            board.stop(Duration::from_secs(30)).context("the device does not stop")?;
        }
        self.service.stop().context("the service does not stop")?;
        Ok(())
    }

    /// Leaves everything running when this program ends.
    pub(crate) fn leave(self) -> (Option<u32>, Option<u32>) {
        let ids = (self.service.id(), self.board.as_ref().map(Running::id));
        std::mem::forget(self);
        ids
    }
}

/// The text at a JSON pointer.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("there is no text at {pointer} of {value}"))
}

/// The digest of a component that the device reports, such as `os`.
pub(crate) fn component(device: &Value, name: &str) -> anyhow::Result<(String, String)> {
    let components =
        device.pointer("/components").and_then(Value::as_array).context("the device reports no components")?;
    let found = components.iter().find(|component| component.pointer("/name").and_then(Value::as_str) == Some(name));
    let found = found.with_context(|| format!("the device reports no component `{name}`"))?;
    Ok((text(found, "/version")?.to_owned(), text(found, "/digest")?.to_owned()))
}
