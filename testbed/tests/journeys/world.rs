//! A service, an operator and one device on the board `host`, all of them real programs, for the journeys that need all three.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use image_builder::artifacts::{ArtifactFolder, block_list};
use protocol_types::Digest;
use rustix::process::Pid;
use serde_json::{Value, json};
use testbed::{Operator, Running, Service, programs::program, until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const ENDPOINT: &str = "gate-1";

/// A service, an operator and one device that is registered.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) operator: Operator,
    pub(crate) board: Option<Running>,
    pub(crate) port: u16,
    pub(crate) service: Service,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The agent is an unprivileged user, who must be able to walk to its program and its folder.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let service = Service::start(&folder.path().join("service")).unwrap();
        let operator = Operator::new(&folder.path().join("mbl"), folder.path());
        fs::write(folder.path().join("passphrase"), "correct horse battery staple\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut world = Self { folder, operator, board: None, port, service };
        world.provision();
        world.power_on();
        world
    }

    /// Runs `mbl` with arguments that are typed in one line; it must succeed.
    pub(crate) fn mbl(&self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = self.operator.command(&[&["--json"], &words[..]].concat()).unwrap();
        let output = command.env("MBL_PASSPHRASE_FILE", self.folder.path().join("passphrase")).output().unwrap();
        assert!(output.status.success(), "mbl {line}: {}", String::from_utf8_lossy(&output.stderr));
        // Some verbs have nothing to say.
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub(crate) fn device_dir(&self) -> PathBuf {
        self.folder.path().join("device")
    }

    fn provision(&self) {
        self.mbl("service token --data-dir service");
        self.mbl("keys init --dir keys --app hello");
        self.mbl("keys publish --dir keys");
        self.mbl("factory authority init --dir authority");
        self.mbl("factory authority upload --dir authority");
        fs::create_dir_all(self.folder.path().join("bin")).unwrap();
        for name in ["mbl-host-board", "mbl-agent", "mbl-updater", "mbl-apps"] {
            fs::copy(program(name).unwrap(), self.program(name)).unwrap();
        }
        write_os(&self.folder.path().join("os"), "0.9.0", SMALLEST);
        let mut format = Command::new(self.program("mbl-updater"));
        format.args(["format", "--slot-bytes", "16777216", "--device-dir"]).arg(self.device_dir());
        let formatted = format.arg("--os").arg(self.folder.path().join("os")).output().unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let (agent, dir) = (self.program("mbl-agent"), self.device_dir());
        self.mbl(&format!(
            "factory provision --endpoint {ENDPOINT} --authority authority --keys keys -- {} factory --device-dir {} \
             --endpoint {ENDPOINT} --account default",
            agent.display(),
            dir.display()
        ));
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join("bin").join(name)
    }

    pub(crate) fn power_on(&mut self) {
        let mut command = Command::new(self.program("mbl-host-board"));
        command.arg("--device-dir").arg(self.device_dir());
        self.power_on_as(command);
    }

    /// Starts the board by `command` and waits until the device is registered.
    pub(crate) fn power_on_as(&mut self, mut command: Command) {
        let log = self.folder.path().join("board.log");
        self.board = Some(Running::start("mbl-host-board", &mut command, &log).unwrap());
        self.until_device("the device to register", |device| {
            device["device"]["connected"] == true && device["device"]["report"]["running_version"].is_string()
        });
    }

    pub(crate) fn until_device(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(PATIENCE, what, || {
            let device = self.operator.json(&["device", "show", ENDPOINT])?;
            Ok(wanted(&device).then_some(device))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()))
    }

    fn logs(&self) -> String {
        ["board", "updater", "apps", "agent"]
            .map(|name| {
                let text = fs::read_to_string(self.device_dir().join(format!("log/{name}.log"))).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(15).collect();
                format!("--- {name}\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
            })
            .concat()
    }

    /// Builds the application `version`; one that is not ready serves everything but the page that says so.
    pub(crate) fn build_app(&self, version: &str, ready: bool) -> PathBuf {
        let (port, arch) = (self.port, std::env::consts::ARCH);
        let page = if ready { "ready" } else { "warming-up" };
        let recipe = format!(
            r#"name = "hello"
version = "{version}"
architecture = "{arch}"
entrypoint = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "/www"]

[[files]]
target = "/bin/busybox"
source = "/bin/busybox"
mode = 0o755

[[files]]
target = "/www/index.html"
text = "hello from {version}\n"

[[files]]
target = "/www/{page}"
text = "yes\n"

[run]
network = "host"
memory_bytes = 33554432
pids = 16
ready = {{ command = ["/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:{port}/ready"], interval_s = 1, timeout_s = 2 }}
"#
        );
        fs::write(self.folder.path().join(format!("app-{version}.toml")), recipe).unwrap();
        self.mbl(&format!("app build app-{version}.toml --out hello-{version}"));
        self.folder.path().join(format!("hello-{version}"))
    }

    /// Signs a release of the application, and of an operating system where `os` names one; `release-VERSION` holds it.
    pub(crate) fn sign(&self, version: &str, os: Option<&str>) {
        let os = os.map_or_else(String::new, |folder| format!(" --os {folder}"));
        self.mbl(&format!(
            "release create --version {version}{os} --app hello-{version} --keys keys --out release-{version} --time-limit 20"
        ));
        self.mbl(&format!("release sign release-{version} --keys keys"));
    }

    /// Signs and publishes a release of the application alone, and starts a rollout to the device; the id of the rollout.
    pub(crate) fn roll_out(&self, version: &str) -> String {
        self.sign(version, None);
        self.start(version)
    }

    /// Publishes a signed release and starts a rollout of it to the device; the id of the rollout.
    pub(crate) fn start(&self, version: &str) -> String {
        self.mbl(&format!("release publish release-{version}"));
        let rollout = self.mbl(&format!("rollout start {version} --all"));
        rollout["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the service reports the device's part of the rollout in this state.
    pub(crate) fn until_rollout(&self, id: &str, state: &str) -> Value {
        until(PATIENCE, &format!("the rollout to end as {state}"), || {
            let shown = self.operator.json(&["rollout", "show", id])?;
            Ok((shown["devices"][0]["state"] == state).then_some(shown))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()))
    }

    pub(crate) fn until_answer(&self, wanted: &str) {
        until(PATIENCE, &format!("the answer `{wanted}`"), || Ok(self.ask().ok().filter(|text| text.contains(wanted))))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    pub(crate) fn ask(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The process of the board that runs this program.
    pub(crate) fn process(&self, name: &str) -> Pid {
        let board = self.board.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{board}/task/{board}/children")).unwrap();
        let runs =
            |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
        children.split_whitespace().find(runs).and_then(|pid| Pid::from_raw(pid.parse().ok()?)).unwrap()
    }

    /// Which entry was booted and with what; changes with every boot.
    pub(crate) fn booted(&self) -> std::time::SystemTime {
        fs::metadata(self.device_dir().join("run/booted")).unwrap().modified().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // In order, so that no container outlives the test.
        if let Some(board) = self.board.take() {
            drop(board.stop(Duration::from_secs(30)));
        }
    }
}

/// The fewest bytes that a root section may have.
const SMALLEST: usize = 64 * 1024;

/// Writes an operating system of `size` bytes, which no other version shares, as `mbl image` would.
pub(crate) fn write_os(folder: &Path, version: &str, size: usize) {
    let artifacts = ArtifactFolder::create(folder.join("artifacts")).unwrap();
    let seed = Digest::of(version.as_bytes());
    let root: Vec<u8> = (0..size / 32)
        .flat_map(|at| *Digest::of(&[seed.as_bytes().as_slice(), &at.to_be_bytes()].concat()).as_bytes())
        .collect();
    let blocks = block_list(&root[..]).unwrap();
    let uki = format!(
        "cmdline: mbl.root={} mbl.size={}\nosrel: ID=mbl\nosrel: VERSION_ID={version}\n",
        Digest::of(&blocks),
        root.len()
    );
    let section = |name: &str, bytes: &[u8]| {
        let blocks = block_list(bytes).unwrap();
        let (stored, listed) = (artifacts.add_bytes(bytes).unwrap(), artifacts.add_bytes(&blocks).unwrap());
        json!({ "name": name, "digest": stored.digest, "size": stored.size,
            "blocks": { "digest": listed.digest, "size": listed.size } })
    };
    let sections = [section("root", &root), section("uki", uki.as_bytes())];
    let index = json!({ "format": 1, "board": "host", "version": version, "sections": sections });
    fs::write(folder.join("os.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}
