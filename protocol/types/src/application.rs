//! What a release says about one application: which image, and the permissions and limits it runs with.

use serde::{Deserialize, Serialize};

use crate::{AppName, Digest, ReleaseVersion};

/// One application of a verified release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationSpec {
    /// The application.
    pub name: AppName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Digest of its OCI image index (OCI image specification 1.1), from which every blob follows by digest.
    pub digest: Digest,
    /// Length of the OCI image index in bytes.
    pub size: u64,
    /// How it runs.
    pub run: RunSettings,
}

/// Permissions and limits, signed with the release; what is not named is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// The network that the application sees.
    #[serde(default)]
    pub network: Network,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
    /// Highest number of processes and threads.
    pub pids: u32,
    /// How to tell ready from started; without it an application is ready when it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadyCheck>,
}

/// The network that an application sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Loopback alone, private to the application.
    #[default]
    None,
    /// The network of the device.
    Host,
}

/// A command run inside the application's container; exit status 0 means ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyCheck {
    /// Program and arguments, the program as an absolute path inside the container.
    pub command: Vec<String>,
    /// Seconds between two tries.
    pub interval_s: u32,
    /// Seconds that one try may take.
    pub timeout_s: u32,
}
