//! What the agent says to `mbl-updater configure-system`, which brings the settings of the operating system into force, and what it hears.
//! One question and one answer a connection, after the greetings.

use serde::{Deserialize, Serialize};

use crate::{Digest, Reason, SystemSettings};

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentToSystem {
    /// Bring these into force on trial: nothing of them outlives a restart of the device, and the network goes back by itself unless a
    /// [`Self::Keep`] comes in time.
    Try {
        /// The settings.
        settings: SystemSettings,
        /// Seconds that the agent has to reach the service with them.
        contact_limit_s: u32,
    },
    /// Bring these into force for good: the service was reached with them. Whatever else is on trial is taken back.
    Keep(SystemSettings),
    /// Look whether what was brought into force still is.
    Look,
}

/// To the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemToAgent {
    /// What was asked for is in force.
    InForce,
    /// Somebody else has changed what is in force.
    Drifted {
        /// Digest of what is there now.
        seen: Digest,
    },
    /// What was asked for is not in force, or only a part of it.
    Refused(Reason),
}
