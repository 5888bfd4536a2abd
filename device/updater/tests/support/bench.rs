//! A device folder with the real programs, and the peers that the test plays.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use protocol_types::{Digest, Phase, TargetPath, UpdateStatus};
use tempfile::TempDir;

use super::{
    account::{Account, Contents},
    peers::{Peers, World},
};

pub(crate) const SLOT_BYTES: u64 = 2 * 1024 * 1024;

/// Waits until `fact` holds.
pub(crate) fn until<T>(what: &str, limit: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let (_keep, never) = mpsc::channel::<()>();
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < end, "after {limit:?} still not: {what}");
        never.recv_timeout(Duration::from_millis(10)).unwrap_err();
    }
}

pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) world: Arc<Mutex<World>>,
    updater: PathBuf,
    agent: PathBuf,
    board: Option<Child>,
    peers: Option<Peers>,
}

pub(crate) const BOARD: &str = env!("CARGO_BIN_EXE_mbl-host-board");
pub(crate) const UPDATER: &str = env!("CARGO_BIN_EXE_mbl-updater");

impl Bench {
    /// A provisioned device with `image` in slot A; it is off.
    pub(crate) fn new(image: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut account = Account::new();
        let os = dir.path().join("os");
        account.write_os(&os, "1.0.0", image);
        let device = dir.path().join("device");
        for name in ["factory", "keys"] {
            fs::create_dir_all(device.join(name)).unwrap();
        }
        let document = serde_json::to_vec(&account.factory_document()).unwrap();
        fs::write(device.join("factory/factory.json"), &document).unwrap();
        fs::write(device.join("keys/factory.sha256"), format!("{}\n", Digest::of(&document))).unwrap();
        let bench = Self {
            world: Arc::new(Mutex::new(World::new(account))),
            updater: PathBuf::from(UPDATER),
            agent: dir.path().join("sleeps"),
            board: None,
            peers: None,
            dir,
        };
        bench.script("sleeps", "exec sleep 100000");
        let made = bench.command(UPDATER, &["format", "--slot-bytes", &SLOT_BYTES.to_string()]).arg("--os").arg(&os);
        let made = made.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        bench
    }

    pub(crate) fn device(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    /// A program that is a shell script.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The board starts this in the updater's place.
    pub(crate) fn set_updater(&mut self, path: PathBuf) {
        self.updater = path;
    }

    /// The board starts this in the agent's place.
    pub(crate) fn set_agent(&mut self, path: PathBuf) {
        self.agent = path;
    }

    fn command(&self, program: &str, words: &[&str]) -> CommandBuilder {
        let mut command = Command::new(program);
        command.args(words).arg("--device-dir").arg(self.device());
        CommandBuilder(command)
    }

    /// Switches the device on; the test plays agent and `mbl-apps` from now on.
    pub(crate) fn power_on(&mut self) {
        self.power_on_alone();
        self.peers = Some(Peers::play(&self.device(), &self.world));
    }

    /// Switches the device on, without anybody at the other ends of its sockets.
    pub(crate) fn power_on_alone(&mut self) {
        let sleeps = self.dir.path().join("sleeps");
        let mut command = Command::new(BOARD);
        command.arg("--device-dir").arg(self.device()).arg("--updater").arg(&self.updater);
        command.arg("--agent").arg(&self.agent).arg("--apps").arg(sleeps);
        self.board = Some(command.stderr(Stdio::null()).spawn().unwrap());
    }

    pub(crate) fn play_apps_alone(&mut self) {
        self.peers = Some(Peers::play_apps(&self.device(), &self.world));
    }

    /// Cuts the power.
    pub(crate) fn power_off(&mut self) {
        self.peers = None;
        if let Some(mut board) = self.board.take() {
            board.kill().unwrap();
            board.wait().unwrap();
        }
    }

    /// Asks the board to stop.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.peers = None;
        let mut board = self.board.take().unwrap();
        let pid = rustix::process::Pid::from_child(&board);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        board.wait().unwrap()
    }

    /// Publishes a release and lets the service want it.
    pub(crate) fn want(&self, contents: &Contents) -> (TargetPath, Digest) {
        let mut world = self.world.lock().unwrap();
        let wish = world.account.publish(contents);
        world.want(wish.clone());
        wish
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.device().join("log").join(name)).unwrap_or_default()
    }

    /// The newest process that the board started in this role, if it still runs.
    pub(crate) fn pid(&self, role: &str) -> Option<i32> {
        let log = self.log("board.log");
        let line = log.lines().rfind(|line| line.contains(&format!("process started process=\"{role}\"")))?;
        let pid: i32 = line.rsplit_once("pid=")?.1.trim().parse().ok()?;
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        (!state.contains(") Z ")).then_some(pid)
    }

    pub(crate) fn kill(&self, role: &str) {
        if let Some(pid) = self.pid(role).and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
        }
    }

    /// What `mbl-updater status` says.
    pub(crate) fn status(&self) -> Option<UpdateStatus> {
        let said = self.command(UPDATER, &["status", "--json"]).output().unwrap();
        said.status.success().then(|| serde_json::from_slice(&said.stdout).unwrap())
    }

    /// Waits for the end of the update to the release with `digest`.
    pub(crate) fn ends(&self, digest: Digest, limit: u64) -> UpdateStatus {
        until("the update comes to its end", Duration::from_secs(limit), || {
            let path = self.device().join("run/update-status.json");
            let status: UpdateStatus = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            let over = matches!(status.phase, Phase::Succeeded | Phase::Failed | Phase::RolledBack);
            (over && status.wanted == Some(digest)).then_some(status)
        })
    }

    pub(crate) fn install(&self, folder: &Path) -> std::process::Output {
        self.command(UPDATER, &["install"]).arg("--from").arg(folder).output().unwrap()
    }

    /// `mbl-updater consent` with these words.
    pub(crate) fn consent(&self, words: &[&str]) -> std::process::Output {
        self.command(UPDATER, &[&["consent"], words].concat()).output().unwrap()
    }

    pub(crate) fn factory_reset(&self) -> std::process::Output {
        self.command(UPDATER, &["factory-reset"]).output().unwrap()
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.device().join("esp"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".tmp"))
            .collect();
        names.sort();
        names
    }

    /// Whether the disk image holds `image` in one piece.
    pub(crate) fn disk_holds(&self, image: &[u8]) -> bool {
        let disk = fs::read(self.device().join("disk.img")).unwrap();
        (0..disk.len() - image.len()).step_by(1 << 20).any(|at| disk[at..at + image.len()] == *image)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.power_off();
        if std::thread::panicking() {
            for name in ["board.log", "updater.log"] {
                let log = self.log(name);
                let tail = log.lines().rev().take(40).collect::<Vec<_>>();
                #[expect(clippy::print_stderr, reason = "the log of a device is why its test failed")]
                tail.iter().rev().for_each(|line| eprintln!("{name}: {line}"));
            }
        }
    }
}

pub(crate) struct CommandBuilder(Command);

impl CommandBuilder {
    pub(crate) fn arg(mut self, word: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.arg(word);
        self
    }

    pub(crate) fn output(mut self) -> std::io::Result<std::process::Output> {
        self.0.output()
    }
}
