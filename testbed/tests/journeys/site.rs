//! A board under QEMU with a service and an operator around it: from the factory step at the serial port to what the service says of it.

use std::{fs, time::Duration};

use image_builder::image::HOST_ADDRESS;
use serde_json::Value;
use testbed::{Machine, Operator, Service, until};

const ENDPOINT: &str = "gate-1";
/// The board starts several times within some of these waits.
const PATIENCE: Duration = Duration::from_secs(900);

/// Everything that one board needs to be part of a fleet.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    operator: Operator,
    _service: Service,
    folder: tempfile::TempDir,
}

impl Site {
    /// A new machine with the signed build in `build`, which has its identity and is off.
    pub(crate) fn provisioned(build: &std::path::Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desk = folder.path().join("desk");
        fs::create_dir(&desk).unwrap();
        fs::write(desk.join("passphrase"), "correct horse battery staple\n").unwrap();
        let service = Service::start_with(&folder.path().join("service"), &["--public-host", HOST_ADDRESS]).unwrap();
        let operator = Operator::new(&desk.join("config"), &desk);
        let mut machine = Machine::new(build, &folder.path().join("machine")).unwrap();
        let at = service.addresses();
        machine.reach(&[at.bootstrap, at.lwm2m, at.artifacts].map(|address| address.port()));
        let site = Self { machine, operator, _service: service, folder };
        site.mbl("service token --data-dir ../service --host 127.0.0.1");
        site.mbl("keys init --dir keys");
        site.mbl("keys publish --dir keys");
        site.mbl("factory authority init --dir authority");
        site.mbl("factory authority upload --dir authority");
        let device = site.machine.command().unwrap();
        let device: Vec<&str> =
            [device.get_program()].into_iter().chain(device.get_args()).map(|word| word.to_str().unwrap()).collect();
        site.mbl(&format!(
            "factory provision --endpoint {ENDPOINT} --authority authority --keys keys --board qemu-arm64-tpm \
             --architecture aarch64 --patience 500 -- {}",
            device.join(" ")
        ));
        site
    }

    /// Runs `mbl` with arguments that are typed in one line; it must succeed.
    pub(crate) fn mbl(&self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = self.operator.command(&[&["--json"], &words[..]].concat()).unwrap();
        let passphrase = self.folder.path().join("desk/passphrase");
        let output = command.env("MBL_PASSPHRASE_FILE", passphrase).output().unwrap();
        assert!(output.status.success(), "mbl {line}: {}", String::from_utf8_lossy(&output.stderr));
        // Some verbs have nothing to say.
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Waits until the service reports that the board is connected and runs this version, from this slot.
    pub(crate) fn until_runs(&self, version: &str, slot: &str) {
        self.until(&format!("the board to run {version} from slot {slot}"), || {
            let shown = self.operator.json(&["device", "show", ENDPOINT])?;
            let device = &shown["device"];
            let report = &device["report"];
            let runs = device["connected"] == true && report["running_version"] == version && report["slot"] == slot;
            Ok(runs.then_some(()))
        });
    }

    /// Signs and publishes a release of the operating system in `build`, and starts a rollout of it; the id of the rollout.
    pub(crate) fn roll_out(&self, version: &str, build: &std::path::Path) -> String {
        let os = build.join("signed/os");
        self.mbl(&format!(
            "release create --version {version} --security-version 1 --architecture aarch64 --os {} --keys keys --out release-{version} \
             --time-limit 600",
            os.display()
        ));
        self.mbl(&format!("release sign release-{version} --keys keys"));
        self.mbl(&format!("release publish release-{version}"));
        self.mbl(&format!("rollout start {version} --all"))["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the board's part of the rollout is in this state.
    pub(crate) fn until_rollout(&self, id: &str, state: &str) -> Value {
        self.until(&format!("the rollout to end as {state}"), || {
            let shown = self.operator.json(&["rollout", "show", id])?;
            Ok((shown["devices"][0]["state"] == state).then_some(shown))
        })
    }

    fn until<T>(&self, what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> T {
        until(PATIENCE, what, look).unwrap_or_else(|error| {
            let said = self.machine.said();
            let from = said.len().saturating_sub(4000);
            let tail: String = said.chars().skip(said[..from].chars().count()).collect();
            panic!("{error:#}\nthe board said last:\n{tail}")
        })
    }
}
