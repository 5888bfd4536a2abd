//! A device's identity, from the factory to its service and back: the real `mbl`, `mbl-service` and `mbl-agent`.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use protocol_types::{
    Digest,
    socket::{AgentToUpdater, Fetch, FetchError, FrameReader, Greeting, PROTOCOL, Role, UpdaterToAgent, encode},
};
use serde_json::Value;
use testbed::{Operator, Running, Service, programs::program, until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A service that one operator has set up, and the folder of everything.
pub(crate) struct Fleet {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) service: Service,
    pub(crate) operator: Operator,
}

impl Fleet {
    /// A service whose operator has a token, keys and a factory authority; `known` says whether the service knows the latter.
    pub(crate) fn new(known: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(&folder.path().join("service")).unwrap();
        let operator = Operator::new(&folder.path().join("mbl"), folder.path());
        fs::write(folder.path().join("passphrase"), "correct horse battery staple\n").unwrap();
        let fleet = Self { folder, service, operator };
        fleet.mbl(&["service", "token", "--data-dir", "service"]);
        fleet.mbl(&["keys", "init", "--dir", "keys", "--passphrase-file", "passphrase"]);
        fleet.mbl(&["factory", "authority", "init", "--dir", "authority", "--passphrase-file", "passphrase"]);
        if known {
            fleet.mbl(&["factory", "authority", "upload", "--dir", "authority"]);
        }
        fleet
    }

    pub(crate) fn mbl(&self, arguments: &[&str]) -> String {
        self.operator.succeed(arguments).unwrap()
    }

    /// A device that went through the factory step; its agent does not run yet.
    pub(crate) fn provision(&self, endpoint: &str) -> PathBuf {
        let device = self.folder.path().join(endpoint);
        let output = self.factory_step(endpoint, &device);
        assert!(output.status.success(), "{output:?}");
        Self::prepare(&device);
        device
    }

    /// The folders of a device's state, and an agent that does not wait long.
    fn prepare(device: &Path) {
        fs::create_dir(device.join("run")).unwrap();
        fs::create_dir_all(device.join("state/agent")).unwrap();
        fs::write(device.join("state/agent/config.toml"), "retry_ceiling_s = 1\n").unwrap();
    }

    /// The factory step of the device in a folder, whatever comes of it.
    fn factory_step(&self, endpoint: &str, device: &Path) -> Output {
        let agent = program("mbl-agent").unwrap();
        let (agent, dir) = (agent.to_str().unwrap(), device.to_str().unwrap());
        let mut words =
            vec!["factory", "provision", "--endpoint", endpoint, "--authority", "authority", "--keys", "keys"];
        words.extend(["--passphrase-file", "passphrase", "--", agent, "factory", "--device-dir", dir]);
        words.extend(["--endpoint", endpoint, "--account", "default"]);
        self.operator.run(&words).unwrap()
    }

    pub(crate) fn start(&self, device: &Path) -> Running {
        let mut command = Command::new(program("mbl-agent").unwrap());
        command.args(["run", "--device-dir"]).arg(device);
        Running::start("mbl-agent", &mut command, &device.join("agent.log")).unwrap()
    }

    pub(crate) fn show(&self, endpoint: &str) -> Value {
        self.operator.json(&["device", "show", endpoint]).unwrap()
    }

    /// Waits until the service says that the device is, or is not, connected.
    pub(crate) fn until_connected(&self, endpoint: &str, connected: bool) -> Value {
        until(PATIENCE, &format!("{endpoint} to be connected: {connected}"), || {
            let shown = self.operator.json(&["device", "show", endpoint])?;
            Ok((shown["device"]["connected"] == connected).then_some(shown))
        })
        .unwrap()
    }

    /// Waits until the agent of `device` has logged this.
    fn until_logged(&self, device: &Path, what: &str) {
        until(PATIENCE, &format!("the agent to log `{what}`"), || {
            let log = fs::read_to_string(device.join("agent.log"))?;
            Ok(log.contains(what).then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn identity_a_provisioned_device_enrols_with_a_key_that_never_leaves_it_and_registers() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let _agent = fleet.start(&device);
    let shown = fleet.until_connected("gate-1", true);
    assert_eq!(shown["certificates"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["certificates"][0]["from_factory"], true, "{shown}");
    assert_eq!(shown["serial_number"], "gate-1", "what the device says of itself was read: {shown}");
    let key = fs::read_to_string(device.join("keys/device-key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let copies = files(fleet.folder.path()).into_iter().filter(|path| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
    });
    assert_eq!(copies.collect::<Vec<_>>(), [device.join("keys/device-key.pem")]);
}

#[test]
fn identity_a_device_of_an_authority_that_the_service_does_not_know_is_refused_until_it_does() {
    let fleet = Fleet::new(false);
    let device = fleet.folder.path().join("gate-1");
    let provisioned = fleet.factory_step("gate-1", &device);
    let said = String::from_utf8_lossy(&provisioned.stderr);
    assert!(provisioned.status.success() && said.contains("mbl factory authority upload --dir authority"), "{said}");
    Fleet::prepare(&device);
    let _agent = fleet.start(&device);
    fleet.until_logged(&device, "UnknownCA");
    assert!(!device.join("state/agent/enrolment.json").exists());
    fleet.mbl(&["factory", "authority", "upload", "--dir", "authority"]);
    fleet.until_connected("gate-1", true);
}

#[test]
fn identity_a_suspended_device_is_kept_out_with_the_reason_and_let_in_again() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let _agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    fleet.mbl(&["device", "suspend", "gate-1"]);
    fleet.until_logged(&device, "suspended");
    assert_eq!(fleet.show("gate-1")["device"]["standing"], "suspended");
    fleet.until_connected("gate-1", false);
    fleet.mbl(&["device", "resume", "gate-1"]);
    fleet.until_connected("gate-1", true);
}

#[test]
fn identity_a_device_finds_its_service_again_after_both_were_killed_without_enrolling_anew() {
    let mut fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let agent = fleet.start(&device);
    let before = fleet.until_connected("gate-1", true);
    let kept = fs::read(device.join("state/agent/enrolment.json")).unwrap();
    fleet.service.restart().unwrap();
    fleet.until_connected("gate-1", true);
    agent.kill().unwrap();
    fleet.until_connected("gate-1", false);
    let _agent = fleet.start(&device);
    let after = fleet.until_connected("gate-1", true);
    assert_eq!(after["certificates"], before["certificates"], "one certificate is enough");
    assert_eq!(fs::read(device.join("state/agent/enrolment.json")).unwrap(), kept);
}

#[test]
fn identity_a_device_that_lost_its_state_enrols_again_with_its_factory_certificate() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    drop(agent);
    // What a factory reset does: the state goes, the factory data stay.
    fs::remove_file(device.join("state/agent/enrolment.json")).unwrap();
    let _agent = fleet.start(&device);
    until(PATIENCE, "a second certificate", || {
        let shown = fleet.show("gate-1");
        Ok((shown["certificates"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })
    .unwrap();
    fleet.until_connected("gate-1", true);
}

#[test]
fn identity_a_copied_device_is_noticed_and_held_until_an_operator_has_looked() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    let copy = fleet.folder.path().join("copy");
    let copied = Command::new("cp").arg("-a").arg(&device).arg(&copy).status().unwrap();
    assert!(copied.success());
    let thief = fleet.start(&copy);
    let standing = |wanted: &'static str| {
        until(PATIENCE, &format!("the device to be {wanted}"), || {
            Ok((fleet.show("gate-1")["device"]["standing"] == wanted).then_some(()))
        })
        .unwrap();
    };
    standing("quarantined");
    drop(thief);
    drop(agent);
    fleet.mbl(&["device", "resume", "gate-1"]);
    let _agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    standing("active");
}

#[test]
fn identity_a_second_factory_step_is_refused_and_the_device_keeps_its_identity() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let before = fs::read(device.join("factory/factory.json")).unwrap();
    let again = fleet.factory_step("gate-1", &device);
    assert!(!again.status.success());
    assert_eq!(fs::read(device.join("factory/factory.json")).unwrap(), before);
}

#[test]
fn identity_no_second_board_gets_the_name_of_a_device_until_that_one_is_decommissioned() {
    let fleet = Fleet::new(true);
    let device = fleet.provision("gate-1");
    let agent = fleet.start(&device);
    fleet.until_connected("gate-1", true);
    let board = fleet.folder.path().join("another-board");
    let refused = fleet.factory_step("gate-1", &board);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("there is a device `gate-1`") && said.contains("mbl device decommission gate-1"), "{said}");
    assert!(!board.exists(), "the board was not touched");

    drop(agent);
    fleet.mbl(&["device", "decommission", "gate-1"]);
    let taken = fleet.factory_step("gate-1", &board);
    assert!(taken.status.success(), "{taken:?}");
    assert!(board.join("factory/factory.json").exists());
}

#[test]
fn identity_a_device_fetches_through_its_agent_what_its_account_published_and_nothing_else() {
    let fleet = Fleet::new(true);
    fleet.mbl(&["keys", "publish", "--dir", "keys"]);
    let device = fleet.provision("gate-1");
    let listener = UnixListener::bind(device.join("run/updater.sock")).unwrap();
    let _agent = fleet.start(&device);
    let mut updater = Updater::accept(&listener);
    updater.until(|message| matches!(message, AgentToUpdater::Contact(contact) if contact.registered));

    let metadata = |name: &str, max_bytes| Fetch::Metadata { name: name.to_owned(), max_bytes, offset: 0 };
    // The address of the artifacts is written right after registration.
    let root = until(PATIENCE, "the first root", || Ok(updater.fetch(metadata("1.root.json", 65_536)).ok())).unwrap();
    let document: Value = serde_json::from_slice(&fs::read(device.join("factory/factory.json")).unwrap()).unwrap();
    let (root, trusted): (Value, Value) =
        (serde_json::from_slice(&root).unwrap(), serde_json::from_str(document["tuf_root"].as_str().unwrap()).unwrap());
    assert_eq!(root, trusted, "what is published is what the factory told the device to trust");
    assert_eq!(updater.fetch(metadata("1.root.json", 100)), Err(FetchError::TooLong));
    assert_eq!(updater.fetch(metadata("99.root.json", 65_536)), Err(FetchError::NotFound));
    assert_eq!(updater.fetch(metadata("../mbl.db", 65_536)), Err(FetchError::NotFound));
    let stranger = Fetch::Artifact { digest: Digest::of(b"of nobody"), offset: 0, length: 100 };
    assert_eq!(updater.fetch(stranger), Err(FetchError::NotFound));
}

/// The updater's end of the local socket, played to see what the agent brings.
struct Updater {
    stream: UnixStream,
    frames: FrameReader,
    asked: u64,
}

impl Updater {
    fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut updater = Self { stream, frames: FrameReader::new(), asked: 0 };
        let _: Greeting = updater.hear();
        updater.say(&Greeting { protocol: PROTOCOL, role: Role::Updater, version: "1".to_owned() });
        updater
    }

    fn say<M: serde::Serialize>(&mut self, message: &M) {
        self.stream.write_all(&encode(message).unwrap()).unwrap();
    }

    fn hear<M: serde::de::DeserializeOwned>(&mut self) -> M {
        loop {
            if let Some(message) = self.frames.take().unwrap() {
                return message;
            }
            let mut piece = [0; 4096];
            let n = self.stream.read(&mut piece).unwrap();
            assert!(n > 0, "the agent hung up");
            self.frames.push(&piece[..n]);
        }
    }

    fn until(&mut self, wanted: impl Fn(&AgentToUpdater) -> bool) {
        while !wanted(&self.hear()) {}
    }

    fn fetch(&mut self, what: Fetch) -> Result<Vec<u8>, FetchError> {
        self.asked += 1;
        self.say(&UpdaterToAgent::Fetch { id: self.asked, what });
        loop {
            if let AgentToUpdater::Fetched(fetched) = self.hear() {
                assert_eq!(fetched.id, self.asked);
                return fetched.result;
            }
        }
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
