//! `deploy/container/compose.yaml`, as it is, run by an engine in a network of its own: the service beside the PostgreSQL of this machine.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use testbed::{Running, programs::program, until};

use crate::{container::succeed, world::PATIENCE};

/// The users of the two images.
const SERVICE_USER: u32 = 65532;
const DATABASE_USER: u32 = 999;
/// The image that the file names, which is built here instead of fetched.
const DATABASE_IMAGE: &str = "docker.io/library/postgres:17";
/// The folder of the file, after which the engine names what it makes.
const PROJECT: &str = "fleet";
/// An engine without systemd: no network and no group of processes but its own. It ends, and all of its containers, with its first process.
const PREPARE: &str = "set -e; mount -t tmpfs none /run; mount -t cgroup2 none /sys/fs/cgroup; ip link set lo up; echo prepared; exec sleep infinity";

/// An engine whose network, processes, images and volumes are the test's own.
struct Engine {
    folder: PathBuf,
    namespaces: Running,
}

impl Engine {
    fn start(folder: &Path) -> Self {
        let at = |name: &str| folder.join(name).display().to_string();
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            at("images"),
            at("images-run")
        );
        let engine = format!(
            "[containers]\ncgroups = \"disabled\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{}\"\n",
            at("networks")
        );
        fs::write(folder.join("storage.conf"), storage).unwrap();
        fs::write(folder.join("containers.conf"), engine).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", PREPARE]);
        let mut namespaces = Running::start("the namespaces", &mut command, &folder.join("namespaces.log")).unwrap();
        until(PATIENCE, "the namespaces to be prepared", || {
            let output = namespaces.output()?;
            anyhow::ensure!(namespaces.is_running()?, "they are gone: {output}");
            Ok(output.contains("prepared").then_some(()))
        })
        .unwrap();
        Self { folder: folder.to_owned(), namespaces }
    }

    /// A command beside the engine.
    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let namespace = |name: &str| format!("/proc/{}/ns/{name}", self.namespaces.id());
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace("net"))).arg(format!("--mount={}", namespace("mnt")));
        command.arg(format!("--pid={}", namespace("pid_for_children"))).arg(program).args(words);
        command.env("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf"));
        command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        // Otherwise timers of systemd ask how the containers are.
        command.env("DISABLE_HC_SYSTEMD", "true");
        command
    }

    fn podman(&self, words: &[&str]) -> String {
        succeed(&mut self.command(Path::new("podman"), words))
    }

    fn compose(&self, words: &[&str]) {
        let file = self.folder.join(PROJECT).join("compose.yaml");
        let words = [&["--file", file.to_str().unwrap()], words].concat();
        succeed(&mut self.command(Path::new("podman-compose"), &words));
    }

    /// Runs `mbl --json`, where the published ports are.
    fn mbl(&self, words: &[&str]) -> anyhow::Result<Value> {
        let mut command = self.command(&program("mbl")?, &[&["--json"], words].concat());
        let output = command.env("MBL_CONFIG_DIR", self.folder.join("operator")).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until the service says that it is ready, its database included.
    fn until_ready(&self) {
        until(PATIENCE, "the service to be ready", || {
            Ok(self.mbl(&["service", "status"]).ok().filter(|status| status["ready"] == true))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    fn is_healthy(&self, container: &str) -> bool {
        let asked = self.command(Path::new("podman"), &["healthcheck", "run", container]).output();
        asked.unwrap().status.success()
    }

    fn logs(&self) -> String {
        let said = |container: &str| {
            let output = self.command(Path::new("podman"), &["logs", "--tail", "20", container]).output().unwrap();
            format!("--- {container}\n{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()))
        };
        [said("fleet_service_1"), said("fleet_database_1")].concat()
    }
}

/// What `deploy/README.md` says to put beside the file.
fn write_project(folder: &Path) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    fs::create_dir(folder).unwrap();
    fs::copy(deploy.join("container/compose.yaml"), folder.join("compose.yaml")).unwrap();
    let example = fs::read_to_string(deploy.join("mbl-service.toml")).unwrap();
    let settings = example
        .replace("fleet.example.com", "127.0.0.1")
        .replace("# database_url = ", "database_url = ")
        .replace("PASSWORD", "of-a-test");
    assert!(settings.contains("\ndatabase_url = \"postgres://mbl:of-a-test@database/mbl\"\n"), "{settings}");
    for (name, text, owner) in
        [("mbl-service.toml", settings.as_str(), SERVICE_USER), ("database-password", "of-a-test", DATABASE_USER)]
    {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
    }
}

#[test]
fn container_the_compose_file_runs_the_service_beside_postgresql_through_a_crash_and_a_new_start() {
    let folder = tempfile::tempdir().unwrap();
    write_project(&folder.path().join(PROJECT));
    let engine = Engine::start(folder.path());
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut build = engine.command(&source.join("../deploy/container/build"), &[]);
    succeed(build.env("PROGRAM", program("mbl-service").unwrap()));
    succeed(&mut engine.command(&source.join("postgresql-image/build"), &[DATABASE_IMAGE]));

    engine.compose(&["up", "--detach"]);
    let mountpoint = ["volume", "inspect", "--format", "{{.Mountpoint}}", "fleet_service"];
    let data = PathBuf::from(engine.podman(&mountpoint));
    until(PATIENCE, "the service to listen", || Ok(data.join("addresses.json").exists().then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", engine.logs()));
    engine.mbl(&["service", "token", "--data-dir", data.to_str().unwrap()]).unwrap();
    engine.mbl(&["group", "create", "cellar"]).unwrap();
    assert!(engine.is_healthy("fleet_database_1"), "{}", engine.logs());
    assert!(!data.join("mbl.db").exists(), "the database is PostgreSQL");

    // A crash, after which the engine starts it again.
    let process = || engine.podman(&["inspect", "--format", "{{.State.Pid}}", "fleet_service_1"]);
    let crashed = process();
    succeed(&mut engine.command(Path::new("kill"), &["-KILL", &crashed]));
    until(PATIENCE, "the engine to start it again", || Ok(Some(process()).filter(|id| *id != "0" && *id != crashed)))
        .unwrap();
    engine.until_ready();

    // Both containers go and come; the volumes stay.
    engine.compose(&["down"]);
    engine.compose(&["up", "--detach"]);
    engine.until_ready();
    assert_eq!(engine.mbl(&["group", "show", "cellar"]).unwrap()["group"]["name"], "cellar");
    engine.compose(&["down"]);
}
