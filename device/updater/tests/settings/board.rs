//! A root of its own for `mbl-updater configure-system`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use device_updater::record::{Configuration, Installed, Note, Record};
use protocol_release::document::Health;
use protocol_types::{
    AppName, BootRecord, Digest, FactoryDocument, SecurityVersion, Slot, UnixSeconds,
    boot_record::{Format1, StateOutcome},
};

pub(crate) const UPDATER: &str = env!("CARGO_BIN_EXE_mbl-updater");

/// A board with an identity, a system in slot A, and programs that write down what they are told.
pub(crate) struct Board {
    dir: tempfile::TempDir,
}

impl Board {
    pub(crate) fn new() -> Self {
        let board = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["usr/bin", "proc/sys/kernel", "run", "mbl/run/configuration", "mbl/factory", "mbl/state/updater"]
        {
            fs::create_dir_all(board.path(folder)).unwrap();
        }
        for program in ["systemctl", "nmcli", "busctl"] {
            board.program(program, "");
        }
        let factory = FactoryDocument {
            format: 1,
            endpoint: "Gate.1".parse().unwrap(),
            account: "acme".parse().unwrap(),
            board: "qemu-arm64-tpm".parse().unwrap(),
            architecture: "aarch64".parse().unwrap(),
            bootstrap_uri: String::new(),
            service_authority: String::new(),
            tuf_root: String::new(),
            time_key: String::new(),
            provisioned: UnixSeconds(0),
            recovery_key: None,
        };
        fs::write(board.path("mbl/factory/factory.json"), serde_json::to_vec(&factory).unwrap()).unwrap();
        board
    }

    /// Has a program of the system write down what it is told, and then do this.
    pub(crate) fn program(&self, name: &str, then: &str) {
        let path = self.path("usr/bin").join(name);
        let script = format!("#!/bin/sh\necho {name} \"$@\" >> {}\n{then}\n", self.path("told").display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program; its exit status, and what it said.
    pub(crate) fn run(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(UPDATER);
        command.arg("configure-system").args(words).arg("--root").arg(self.dir.path());
        let output = command.arg("--device-dir").arg(self.path("mbl")).env_remove("MBL_LOG_LEVEL").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// What the updater does when this document is in force, and what the service manager does then.
    pub(crate) fn change(&self, document: Option<&str>) -> (i32, String) {
        let path = self.path("mbl/run/configuration/system.json");
        match document {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        fs::write(self.path("mbl/run/configuration-changed"), "").unwrap();
        drop(fs::remove_file(self.path("told")));
        let seen = self.run(&[]);
        assert!(!self.path("mbl/run/configuration-changed").exists(), "it would be started again and again");
        seen
    }

    /// What the programs were told since the last change.
    pub(crate) fn told(&self) -> Vec<String> {
        fs::read_to_string(self.path("told")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn setting(&self, name: &str) -> String {
        self.text(&format!("mbl/run/system/{name}"))
    }

    pub(crate) fn connections(&self) -> Vec<String> {
        let listed = fs::read_dir(self.path("run/NetworkManager/system-connections")).unwrap();
        let mut names: Vec<String> = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Power on: what the initrd leaves behind, and nothing else in `/run`.
    pub(crate) fn boot(&self, slot: Slot, root: &str) -> (i32, String) {
        for folder in ["run", "mbl/run"] {
            fs::remove_dir_all(self.path(folder)).unwrap();
            fs::create_dir_all(self.path(folder)).unwrap();
        }
        let record = BootRecord {
            format: Format1,
            slot,
            entry: None,
            root_hash: Digest::of(root.as_bytes()),
            security_version: SecurityVersion(1),
            floor: SecurityVersion(0),
            state: StateOutcome::Open,
            reason: None,
        };
        fs::write(self.path("mbl/run/boot.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        drop(fs::remove_file(self.path("told")));
        let seen = self.run(&["--at-boot"]);
        assert_eq!(self.told(), Vec::<String>::new(), "nobody runs yet who could be told");
        seen
    }

    /// A release with this document whose system has this root, as the updater remembers it.
    pub(crate) fn installed(&self, root: &str, document: &str) -> Installed {
        let digest = Digest::of(document.as_bytes());
        let name = AppName::new("system").unwrap();
        let configuration = Configuration { name, digest, size: document.len() as u64 };
        fs::write(self.path("mbl/state/updater").join(configuration.file_name()), document).unwrap();
        let note = Note {
            digest: Digest::of(root.as_bytes()),
            version: "1.0.0".parse().unwrap(),
            security_version: SecurityVersion(1),
            raises_floor: false,
            health: Health { time_limit_s: 90, no_contact_limit_s: 600 },
            applications: Vec::new(),
            configurations: vec![configuration],
        };
        Installed { root: Digest::of(root.as_bytes()), os_security_version: None, note }
    }

    pub(crate) fn remember(&self, record: &Record) {
        fs::write(self.path("mbl/state/updater/state.json"), serde_json::to_vec(record).unwrap()).unwrap();
    }
}
