//! Settings of one `mbl-apps` and the places that follow from them.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use protocol_types::Digest;

use crate::limits::Limits;

/// What the command line decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The device's folder (`docs/formats/host-board.md`).
    pub device_dir: PathBuf,
    /// The OCI runtime.
    pub runtime: PathBuf,
    /// The device's network namespace; `None`: the one that this process was started in.
    pub host_network: Option<PathBuf>,
    /// The control group below which those of applications are made, an absolute path in the hierarchy.
    pub cgroup_parent: String,
    /// The user that the agent runs as; `None`: this process's own.
    pub agent_uid: Option<u32>,
    /// The first user id that applications get.
    pub first_uid: u32,
    /// Bytes of logs that are kept for one application.
    pub log_bytes: u64,
    /// What images may take.
    pub limits: Limits,
}

/// The places of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The store (`state/apps`).
    pub state: PathBuf,
    /// The socket (`run/apps.sock`).
    pub socket: PathBuf,
    /// What lives no longer than the machine is up: bundles and the runtime's state. Everybody may walk through it.
    pub volatile: PathBuf,
    /// Sets this device apart from others on the same machine.
    pub instance: String,
}

impl Places {
    /// The places of the device in `device_dir`, which are made if they are missing.
    pub fn of(device_dir: &Path) -> io::Result<Self> {
        let device_dir = fs::canonicalize(device_dir)?;
        let path = std::os::unix::ffi::OsStrExt::as_bytes(device_dir.as_os_str());
        let instance = Digest::of(path).hex().chars().take(12).collect::<String>();
        let places = Self {
            state: device_dir.join("state/apps"),
            socket: device_dir.join("run/apps.sock"),
            volatile: Path::new("/run/mbl-apps").join(&instance),
            instance,
        };
        fs::create_dir_all(&places.state)?;
        // Logs and environments of applications are nobody else's business, the agent's included.
        fs::set_permissions(&places.state, fs::Permissions::from_mode(0o700))?;
        fs::create_dir_all(device_dir.join("run"))?;
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&places.volatile)?;
        Ok(places)
    }

    /// Where the runtime keeps its state.
    pub fn runtime_root(&self) -> PathBuf {
        self.volatile.join("oci")
    }

    /// Where bundles are made.
    pub fn bundles(&self) -> PathBuf {
        self.volatile.join("bundles")
    }

    /// Where the logs of applications are.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }
}
