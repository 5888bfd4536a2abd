//! A stage with one device that is registered, for the journeys that need all three, with words that fail instead of returning errors.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use image_builder::artifacts::{ArtifactFolder, block_list};
use protocol_types::Digest;
use rustix::process::Pid;
use serde_json::{Value, json};
use testbed::{Stage, until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const ENDPOINT: &str = "gate-1";
const SLOT_BYTES: u64 = 16 << 20;

/// A service, an operator and one device that is registered.
pub(crate) struct World {
    pub(crate) stage: Stage,
    /// Goes away with everything in it.
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(&[])
    }

    /// A world whose service has these flags.
    pub(crate) fn on(service_flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The agent is an unprivileged user, who must be able to walk to its program and its folder.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let stage = Stage::set_with(folder.path(), ENDPOINT, PATIENCE, service_flags).unwrap();
        let mut world = Self { stage, _folder: folder };
        world.provision();
        world.power_on();
        world
    }

    /// Runs `mbl` with arguments that are typed in one line; it must succeed.
    pub(crate) fn mbl(&self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        let printed = self.stage.mbl(&[&["--json"], &words[..]].concat()).unwrap();
        // Some verbs have nothing to say.
        serde_json::from_str(&printed).unwrap_or(Value::Null)
    }

    fn provision(&self) {
        self.mbl("service token --data-dir ../service");
        self.mbl("keys init --dir keys --app hello");
        self.mbl("keys publish --dir keys");
        self.mbl("factory authority init --dir authority");
        self.mbl("factory authority upload --dir authority");
        let os = self.stage.at_operator("os");
        write_os(&os, "0.9.0", SMALLEST);
        self.stage.format_disk(&os, SLOT_BYTES).unwrap();
        self.mbl(&self.stage.provisioning("authority", "keys").join(" "));
    }

    pub(crate) fn power_on(&mut self) {
        self.stage.power_on().unwrap();
        self.stage.await_registered().unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    /// Starts the board by `command`, which becomes `mbl-host-board`, and waits until the device is registered.
    pub(crate) fn power_on_by(&mut self, command: Command) {
        self.stage.power_on_by(command).unwrap();
        self.stage.await_registered().unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    pub(crate) fn until_device(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.stage.await_device(what, wanted).unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()))
    }

    fn logs(&self) -> String {
        ["board", "updater", "apps", "agent"]
            .map(|name| {
                let text =
                    fs::read_to_string(self.stage.device_dir().join(format!("log/{name}.log"))).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(15).collect();
                format!("--- {name}\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
            })
            .concat()
    }

    /// Builds the application `version`; one that is not ready serves everything but the page that says so.
    pub(crate) fn build_app(&self, version: &str, ready: bool) -> PathBuf {
        let recipe = self.stage.recipe(version, ready);
        fs::write(self.stage.at_operator(&format!("app-{version}.toml")), recipe).unwrap();
        self.mbl(&format!("app build app-{version}.toml --out hello-{version}"));
        self.stage.at_operator(&format!("hello-{version}"))
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
            let shown = self.stage.json(&["rollout", "show", id])?;
            Ok((shown["devices"][0]["state"] == state).then_some(shown))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()))
    }

    pub(crate) fn until_answer(&self, wanted: &str) {
        until(PATIENCE, &format!("the answer `{wanted}`"), || {
            Ok(Some(self.stage.http("/")?).filter(|text| text.contains(wanted)))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    /// The process of the board that runs this program.
    pub(crate) fn process(&self, name: &str) -> Pid {
        let id = self.stage.process(name).unwrap().unwrap();
        Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    /// Which entry was booted and with what; changes with every boot.
    pub(crate) fn booted(&self) -> std::time::SystemTime {
        fs::metadata(self.stage.device_dir().join("run/booted")).unwrap().modified().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // In order, so that no container outlives the test.
        drop(self.stage.power_off());
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
