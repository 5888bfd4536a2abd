//! What a rollout would do if it were started now.

use std::collections::BTreeMap;

use protocol_types::{EndpointName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, CreateRollout};

/// What would happen; nothing was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// Devices of the audience.
    pub devices: u64,
    /// Those that run the release already.
    pub already_running: u64,
    /// Those that no rule holds: they are offered the release as soon as waves, rate and quota let them.
    pub ready: u64,
    /// The most that would be offered the release at once.
    pub at_once: u64,
    /// Seconds until all that are ready have been offered it at the rate asked for, if none fails and no wave is waited for; absent
    /// without a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers_take_s: Option<u64>,
    /// Devices of each wave; the last one holds what no other takes.
    pub waves: Vec<u64>,
    /// What holds the others, the most frequent first.
    pub held: Vec<HeldDevices>,
    /// Bytes of the release with everything in it: the most that one device fetches.
    pub bytes_per_device: u64,
    /// The most that all devices together fetch that do not run the release yet.
    pub bytes: u64,
}

/// Devices that one rule holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldDevices {
    /// The stable name of the rule, as in the answers to why a device is not on a release.
    pub rule: String,
    /// How many it holds.
    pub devices: u64,
    /// One of them.
    #[schema(value_type = String)]
    pub example: EndpointName,
    /// The rule in a sentence.
    pub text: String,
    /// The facts that show it for the example.
    pub evidence: BTreeMap<String, String>,
    /// When the first of them has its turn, in Unix seconds, where time alone decides that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub next_attempt: Option<UnixSeconds>,
    /// What a person can do.
    pub hint: String,
}

impl Client {
    /// What a rollout would do if it were started now; nothing is made.
    pub async fn dry_run(&self, rollout: &CreateRollout) -> Result<DryRun, ClientError> {
        self.post_once("/rollouts/dry-run", rollout, None).await
    }
}
