//! How far a device is on its way to the wanted release, as it reports it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AppName, Digest, Question, Reason, ReasonCode, ReleaseVersion, RolloutId, SecurityVersion, Slot};

/// What the updater is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is asked of it.
    #[default]
    Idle,
    /// It fetches metadata or components into their places.
    Downloading,
    /// It reads back and checks what was written.
    Verifying,
    /// It arms the other slot or switches the applications.
    Installing,
    /// The new release runs but is not yet trusted.
    Trial,
    /// The wanted release runs and was confirmed.
    Succeeded,
    /// The wanted release was refused or could not be installed; the running one is untouched.
    Failed,
    /// The wanted release ran, did not prove itself healthy, and the previous one runs again.
    RolledBack,
}

impl Phase {
    /// All phases, in the order in which an update passes them.
    pub const ALL: &[Self] = &[
        Self::Idle,
        Self::Downloading,
        Self::Verifying,
        Self::Installing,
        Self::Trial,
        Self::Succeeded,
        Self::Failed,
        Self::RolledBack,
    ];

    /// The phase as the device object and the API write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Installing => "installing",
            Self::Trial => "trial",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }

    /// Reads what [`Phase::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|phase| phase.as_str() == text)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What runs now, read from the booted system itself and never from a note about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningRelease {
    /// Version of the confirmed or tried release.
    pub version: ReleaseVersion,
    /// Digest of its release document; absent on the image that the factory wrote before any release.
    pub digest: Option<Digest>,
    /// The slot whose system was booted.
    pub slot: Slot,
    /// Version of the booted operating system.
    pub os_version: String,
    /// Root digest of the booted operating system, from the verified command line.
    pub os_digest: Digest,
    /// The applications of the release.
    pub applications: Vec<RunningApplication>,
    /// The firmware that started the system, on a board with slots for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<RunningFirmware>,
}

/// The firmware that started the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningFirmware {
    /// The slot that it started from, as it said itself.
    pub slot: Slot,
    /// Digest of the package in that slot, as read from the flash; none if there is no package now.
    pub digest: Option<Digest>,
}

/// One application of the running release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningApplication {
    /// The application.
    pub name: AppName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Digest of its OCI image index.
    pub digest: Digest,
}

/// Everything that the updater reports; each report replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// What the updater is doing.
    pub phase: Phase,
    /// The rollout that asked for it.
    pub rollout: Option<RolloutId>,
    /// Digest of the release document that was asked for.
    pub wanted: Option<Digest>,
    /// Why the phase is what it is, where that needs saying.
    pub reason: Option<Reason>,
    /// Bytes of the components in their places and bytes in all, while downloading.
    pub progress: Option<(u64, u64)>,
    /// What runs now.
    pub running: RunningRelease,
    /// Releases below this security version are refused.
    pub floor: SecurityVersion,
    /// What somebody at the device is asked now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
}

impl UpdateStatus {
    /// Whether somebody at the device said no to what was wanted.
    pub fn is_declined(&self) -> bool {
        self.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::ConsentRefused)
    }
}
