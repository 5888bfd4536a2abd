//! Where the agent's files are inside a device's folder (`docs/formats/host-board.md`). Never reads them.

use std::path::{Path, PathBuf};

/// The checks that an operating system image declares.
pub(crate) const IMAGE_PROBES: &str = "/usr/lib/mbl/probes.d";
/// What of an operating system image holds programs, all of it verified.
pub(crate) const IMAGE_PROGRAMS: &str = "/usr";

/// The folder of one device.
#[derive(Clone, Debug)]
pub struct DeviceFolder(PathBuf);

impl DeviceFolder {
    /// The folder at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the factory step ever left anything here.
    pub fn is_provisioned(&self) -> bool {
        self.factory_document().exists() || self.0.join("keys/factory.sha256").exists()
    }

    pub(crate) fn factory(&self) -> PathBuf {
        self.0.join("factory")
    }

    pub(crate) fn factory_document(&self) -> PathBuf {
        self.0.join("factory/factory.json")
    }

    /// The document between its record in the key store and its place.
    pub(crate) fn staged_document(&self) -> PathBuf {
        self.0.join("factory/factory.staged.json")
    }

    pub(crate) fn factory_certificate(&self) -> PathBuf {
        self.0.join("factory/factory-cert.pem")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// The agent's own part of the state partition.
    pub fn state(&self) -> PathBuf {
        self.0.join("state/agent")
    }

    /// The agent's settings.
    pub fn config(&self) -> PathBuf {
        self.0.join("state/agent/config.toml")
    }

    /// The files that stand for the settings of the operating system on the board `host`.
    pub(crate) fn settings(&self) -> PathBuf {
        self.0.join("state/agent/settings")
    }

    /// What the initrd left: the sealed recovery key of the state.
    pub(crate) fn recovery_key(&self) -> PathBuf {
        self.0.join("run/recovery.json")
    }

    /// What the loader leaves anew at each boot of the board `host`.
    pub(crate) fn booted(&self) -> PathBuf {
        self.0.join("run/booted")
    }

    /// The logs of the processes on the board `host`.
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The checks that the board `host` declares.
    pub(crate) fn probes(&self) -> PathBuf {
        self.0.join("probes.d")
    }

    /// Where the updater listens.
    pub fn updater_socket(&self) -> PathBuf {
        self.0.join("run/updater.sock")
    }

    /// Where the settings of the operating system are taken, on a board that has one of its own.
    pub fn system_socket(&self) -> PathBuf {
        self.0.join("run/system.sock")
    }

    /// Where `mbl-apps` listens.
    pub fn apps_socket(&self) -> PathBuf {
        self.0.join("run/apps.sock")
    }
}
