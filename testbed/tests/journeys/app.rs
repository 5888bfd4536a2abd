//! Applications on a device, from a recipe to an answer over HTTP: the real `mbl`, `mbl-service` and board with its processes.

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
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testbed::{Operator, Running, Service, programs::program, until};

const PATIENCE: Duration = Duration::from_secs(120);
const ENDPOINT: &str = "gate-1";

/// A service, an operator and one device that is registered.
struct World {
    folder: tempfile::TempDir,
    operator: Operator,
    board: Option<Running>,
    port: u16,
    _service: Service,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The agent is an unprivileged user, who must be able to walk to its program and its folder.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let service = Service::start(&folder.path().join("service")).unwrap();
        let operator = Operator::new(&folder.path().join("mbl"), folder.path());
        fs::write(folder.path().join("passphrase"), "correct horse battery staple\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut world = Self { folder, operator, board: None, port, _service: service };
        world.provision();
        world.power_on();
        world
    }

    /// Runs `mbl` with arguments that are typed in one line; it must succeed.
    fn mbl(&self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = self.operator.command(&[&["--json"], &words[..]].concat()).unwrap();
        let output = command.env("MBL_PASSPHRASE_FILE", self.folder.path().join("passphrase")).output().unwrap();
        assert!(output.status.success(), "mbl {line}: {}", String::from_utf8_lossy(&output.stderr));
        // Some verbs have nothing to say.
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn device_dir(&self) -> PathBuf {
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
        write_small_os(&self.folder.path().join("os"));
        let mut format = Command::new(self.program("mbl-updater"));
        format.args(["format", "--slot-bytes", "1048576", "--device-dir"]).arg(self.device_dir());
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

    fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join("bin").join(name)
    }

    fn power_on(&mut self) {
        let mut command = Command::new(self.program("mbl-host-board"));
        command.arg("--device-dir").arg(self.device_dir());
        let log = self.folder.path().join("board.log");
        self.board = Some(Running::start("mbl-host-board", &mut command, &log).unwrap());
        self.until_device("the device to register", |device| {
            device["device"]["connected"] == true && device["device"]["report"]["running_version"].is_string()
        });
    }

    fn until_device(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
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
    fn build_app(&self, version: &str, ready: bool) -> PathBuf {
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

    /// Signs and publishes a release of the application alone, and starts a rollout to the device; the id of the rollout.
    fn roll_out(&self, version: &str) -> String {
        self.mbl(&format!(
            "release create --version {version} --app hello-{version} --keys keys --out release-{version} --time-limit 20"
        ));
        self.mbl(&format!("release sign release-{version} --keys keys"));
        self.mbl(&format!("release publish release-{version}"));
        let rollout = self.mbl(&format!("rollout start {version} --all"));
        rollout["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the service reports the device's part of the rollout in this state.
    fn until_rollout(&self, id: &str, state: &str) -> Value {
        until(PATIENCE, &format!("the rollout to end as {state}"), || {
            let shown = self.operator.json(&["rollout", "show", id])?;
            Ok((shown["devices"][0]["state"] == state).then_some(shown))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()))
    }

    fn until_answer(&self, wanted: &str) {
        until(PATIENCE, &format!("the answer `{wanted}`"), || Ok(self.ask().ok().filter(|text| text.contains(wanted))))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    fn ask(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The process of the board that runs this program.
    fn process(&self, name: &str) -> Pid {
        let board = self.board.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{board}/task/{board}/children")).unwrap();
        let runs =
            |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
        children.split_whitespace().find(runs).and_then(|pid| Pid::from_raw(pid.parse().ok()?)).unwrap()
    }

    /// Which entry was booted and with what; changes with every boot.
    fn booted(&self) -> std::time::SystemTime {
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

/// An operating system that is only as large as an index may be small: these journeys never change it.
fn write_small_os(folder: &Path) {
    let artifacts = ArtifactFolder::create(folder.join("artifacts")).unwrap();
    let root = vec![7; 64 * 1024];
    let blocks = block_list(&root[..]).unwrap();
    let uki = format!(
        "cmdline: mbl.root={} mbl.size={}\nosrel: ID=mbl\nosrel: VERSION_ID=0.9.0\n",
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
    let index = json!({ "format": 1, "board": "host", "version": "0.9.0", "sections": sections });
    fs::write(folder.join("os.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

/// Adds a layer to an image layout that reaches out of its root, with every digest as it must be.
fn add_unsafe_layer(layout: &Path) {
    let blob = |digest: &str| layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let keep = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blob(&digest.to_string()), bytes).unwrap();
        (json!(digest), json!(bytes.len()))
    };
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..16].copy_from_slice(b"../../etc/shadow");
    for set in [tar::Header::set_size, tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
        set(&mut header, 0);
    }
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &[][..]).unwrap();
    let layer = archive.into_inner().unwrap();

    let mut index = read(&layout.join("index.json"));
    let old_manifest = blob(index["manifests"][0]["digest"].as_str().unwrap());
    let mut manifest = read(&old_manifest);
    let old_config = blob(manifest["config"]["digest"].as_str().unwrap());
    let mut config = read(&old_config);
    let (digest, size) = keep(&layer);
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest.clone());
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let layers = manifest["layers"].as_array_mut().unwrap();
    layers.push(json!({ "mediaType": media_type, "digest": digest, "size": size }));
    fs::remove_file(old_config).unwrap();
    (manifest["config"]["digest"], manifest["config"]["size"]) = keep(&serde_json::to_vec(&config).unwrap());
    fs::remove_file(old_manifest).unwrap();
    let (digest, size) = keep(&serde_json::to_vec(&manifest).unwrap());
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest, size);
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn app_a_release_of_an_application_alone_is_switched_in_place_and_answers() {
    let world = World::new();
    let booted = world.booted();
    for version in ["1.0.0", "1.1.0"] {
        world.build_app(version, true);
        let rollout = world.roll_out(version);
        world.until_rollout(&rollout, "succeeded");
        world.until_answer(&format!("hello from {version}"));
        let device = world
            .until_device("the device to report it", |device| device["device"]["report"]["running_version"] == version);
        let components = device["components"].as_array().unwrap();
        let app = components.iter().find(|component| component["name"] == "application/hello").unwrap();
        assert_eq!(app["version"], version, "{device}");
        assert_eq!(
            app["digest"],
            json!(Digest::of(&fs::read(world.folder.path().join(format!("hello-{version}/index.json"))).unwrap()))
        );
    }
    assert_eq!(world.booted(), booted, "the device restarted for an application");
}

#[test]
fn app_one_that_never_becomes_ready_is_taken_back_with_its_reason() {
    let world = World::new();
    world.build_app("1.0.0", true);
    let good = world.roll_out("1.0.0");
    world.until_rollout(&good, "succeeded");
    world.build_app("1.1.0", false);
    let bad = world.roll_out("1.1.0");
    let shown = world.until_rollout(&bad, "rolled_back");
    assert_eq!(shown["devices"][0]["reason"]["code"], "application_not_ready", "{shown}");
    world.until_answer("hello from 1.0.0");
    world.until_device("the device to report the old release", |device| {
        device["device"]["report"]["running_version"] == "1.0.0"
    });
}

#[test]
fn app_an_image_that_reaches_out_of_its_root_is_refused_and_disturbs_nothing() {
    let world = World::new();
    world.build_app("1.0.0", true);
    let good = world.roll_out("1.0.0");
    world.until_rollout(&good, "succeeded");
    world.until_answer("hello from 1.0.0");
    add_unsafe_layer(&world.build_app("1.1.0", true));
    let bad = world.roll_out("1.1.0");
    let shown = world.until_rollout(&bad, "failed");
    assert_eq!(shown["devices"][0]["reason"]["code"], "unsafe_layer", "{shown}");
    assert!(world.ask().unwrap().contains("hello from 1.0.0"), "the running application was disturbed");
    let images = fs::read_dir(world.device_dir().join("state/apps/images")).unwrap().count();
    assert_eq!(images, 1, "something of the refused image was left");
}

#[test]
fn app_one_whose_supervisor_is_killed_answers_again_and_its_device_stays_confirmed() {
    let world = World::new();
    world.build_app("1.0.0", true);
    let rollout = world.roll_out("1.0.0");
    world.until_rollout(&rollout, "succeeded");
    world.until_answer("hello from 1.0.0");
    for name in ["mbl-apps", "mbl-updater", "mbl-agent", "mbl-apps"] {
        let process = world.process(name);
        kill_process(process, Signal::KILL).unwrap();
        until(PATIENCE, &format!("another {name}"), || {
            let board = world.board.as_ref().unwrap().id();
            let children = fs::read_to_string(format!("/proc/{board}/task/{board}/children"))?;
            let again = children.split_whitespace().any(|pid| {
                pid != process.as_raw_nonzero().to_string()
                    && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
            });
            Ok(again.then_some(()))
        })
        .unwrap();
    }
    world.until_answer("hello from 1.0.0");
    world.until_device("the application to be reported ready", |device| {
        let running = &device["device"]["report"]["running_version"];
        device["device"]["connected"] == true && running == "1.0.0"
    });
}
