//! Why a device does not have what somebody wants it to have.

use std::collections::BTreeMap;

use protocol_types::{DeviceState, EndpointName, ReleaseVersion, RolloutId, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery, StagedConfiguration};

/// The answer for one device and one rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyNot {
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// The rollout.
    #[schema(value_type = String)]
    pub rollout: RolloutId,
    /// The release that it brings, unless it brings a configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub release: Option<ReleaseVersion>,
    /// The configuration that it brings, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<StagedConfiguration>,
    /// How far the rollout is on the device; absent if the device is not on its list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub state: Option<DeviceState>,
    /// The stable name of the rule that decides: what the device waits for, the state in which it ended, or `draft`, `paused`,
    /// `offered`, `under_way`, `not_in_audience`, `audience_closed`.
    pub rule: String,
    /// The rule in a sentence.
    pub text: String,
    /// The facts that show it, by name.
    pub evidence: BTreeMap<String, String>,
    /// When the device is tried next, in Unix seconds, where time alone decides that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub next_attempt: Option<UnixSeconds>,
    /// What a person can do.
    pub hint: String,
}

/// The answers for one device: one for each rollout that may want something of it, the one that decides first before the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceWhy {
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// The version that it runs, if it ever said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// Why it is not where a rollout wants it; empty if it is, or if no rollout wants anything.
    pub reasons: Vec<WhyNot>,
}

impl Client {
    /// Why devices of a rollout are not on its release, in the order of their names.
    pub async fn rollout_why(&self, id: &RolloutId, page: &PageQuery) -> Result<Page<WhyNot>, ClientError> {
        self.get(&format!("/rollouts/{id}/why"), page).await
    }

    /// Why a device is not on the release that rollouts want it to run.
    pub async fn device_why(&self, endpoint: &EndpointName) -> Result<DeviceWhy, ClientError> {
        self.get(&format!("/devices/{endpoint}/why"), &()).await
    }

    /// Lets a device that is held back because it kept failing take part in rollouts again.
    pub async fn forgive_device(&self, endpoint: &EndpointName) -> Result<DeviceWhy, ClientError> {
        self.post_empty(&format!("/devices/{endpoint}/forgive")).await
    }
}
