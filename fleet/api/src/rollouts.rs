//! Rollouts: which release goes to which devices, how carefully, and how far it is on each.

use std::collections::BTreeMap;

use protocol_types::{
    DeviceState, Digest, EndpointName, GroupName, Reason, ReleaseVersion, RolloutId, RolloutState, UnixSeconds,
    WaitingFor,
};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{Object, ObjectBuilder, Type},
};

use crate::{Client, ClientError, Page};

fn words(words: Vec<&'static str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

fn rollout_state() -> Object {
    words(RolloutState::ALL.iter().map(|state| state.as_str()).collect())
}

fn device_state() -> Object {
    words(DeviceState::ALL.iter().map(|state| state.as_str()).collect())
}

fn waiting_for() -> Object {
    words(WaitingFor::ALL.iter().map(|what| what.as_str()).collect())
}

/// Why something was refused, failed or was undone; the form of `protocol_types::Reason`.
#[derive(Debug, ToSchema)]
#[schema(as = Reason)]
#[expect(dead_code, reason = "describes the form for openapi.json")]
struct ReasonForm {
    /// The stable code.
    code: String,
    /// One sentence.
    text: String,
}

/// Which devices a rollout is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Every device of the account, also those that join while it runs.
    All,
    /// The devices in a group, also those that come into it while it runs.
    #[schema(value_type = String)]
    Group(GroupName),
    /// The devices that a filter is true for, also those for which it becomes true while the rollout runs.
    Filter(String),
    /// These devices, at most 10000.
    #[schema(value_type = Vec<String>)]
    Devices(Vec<EndpointName>),
}

/// How many devices may fail before a rollout stops by itself. A device that lost contact or was taken over by a newer rollout does
/// not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureThreshold {
    /// It stops at so many failed devices; at least 1.
    Count(u32),
    /// It stops when so many per cent of its devices have failed; 1 to 100.
    Percent(u8),
}

impl Default for FailureThreshold {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// Hours of each day, in UTC, in which a rollout may offer its release. The end may lie on the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The first minute, as in `22:00`.
    pub from: String,
    /// The first minute that is outside again, as in `05:00`.
    pub until: String,
}

/// Whose yes each device needs before it is offered the release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// Nobody's.
    #[default]
    Automatic,
    /// An operator's: each device waits until somebody consents for it.
    Operator,
}

/// Consents to a rollout for some of its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GiveConsent {
    /// For which devices, 1 to 10000; absent for every device that waits for it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub devices: Option<Vec<EndpointName>>,
}

/// Asks for a new rollout; nothing happens before it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRollout {
    /// What people call it; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100)]
    pub name: Option<String>,
    /// The release.
    #[schema(value_type = String)]
    pub release: ReleaseVersion,
    /// For which devices.
    pub audience: Audience,
    /// How many may fail; without it the first failed device stops the rollout.
    #[serde(default)]
    pub failure_threshold: FailureThreshold,
    /// How many devices may be under way at a time; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_in_flight: Option<u32>,
    /// When it may offer the release; absent for always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Whose yes each device needs; without it nobody's.
    #[serde(default)]
    pub consent: Consent,
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// Its name in addresses and on devices.
    #[schema(value_type = String)]
    pub id: RolloutId,
    /// What people call it.
    pub name: String,
    /// The release.
    #[schema(value_type = String)]
    pub release: ReleaseVersion,
    /// Digest of the release document.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// For which devices.
    pub audience: Audience,
    /// How many may fail.
    pub failure_threshold: FailureThreshold,
    /// How many devices may be under way at a time; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// When it may offer the release; absent for always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Whose yes each device needs.
    #[serde(default)]
    pub consent: Consent,
    /// How far it is.
    #[schema(schema_with = rollout_state)]
    pub state: RolloutState,
    /// Why, where that needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReasonForm>)]
    pub reason: Option<Reason>,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When it was started, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub started: Option<UnixSeconds>,
    /// When the rollout itself last changed, in Unix seconds.
    #[schema(value_type = u64)]
    pub changed: UnixSeconds,
    /// Counts every change of the rollout itself; also the `ETag`.
    pub revision: i64,
    /// How many devices are in each state; a state without devices is absent.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub devices: BTreeMap<DeviceState, u64>,
}

/// How far a rollout is on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDevice {
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// How far it is.
    #[schema(schema_with = device_state)]
    pub state: DeviceState,
    /// What it waits for, if it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = waiting_for, required = false)]
    pub waiting_for: Option<WaitingFor>,
    /// Why, where that needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReasonForm>)]
    pub reason: Option<Reason>,
    /// Per cent, while downloading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// Since when it is in this state, in Unix seconds.
    #[schema(value_type = u64)]
    pub since: UnixSeconds,
}

/// Which devices of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RolloutDeviceQuery {
    /// Only devices in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(schema_with = device_state, required = false)]
    pub state: Option<DeviceState>,
    /// `next` of the page before; without it, the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most items of the page: 1 to 500, 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

/// What a person asks of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutAction {
    /// Begin to offer the release.
    Start,
    /// Offer nothing new for now.
    Pause,
    /// Go on after a pause.
    Resume,
    /// End it; devices that are not beyond the point of return stay where they are.
    Abort,
}

impl RolloutAction {
    /// The last part of the path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
        }
    }
}

impl Client {
    /// The rollouts of the account, in the order in which they were made.
    pub async fn rollouts(&self, page: &crate::PageQuery) -> Result<Page<Rollout>, ClientError> {
        self.get("/rollouts", page).await
    }

    /// One rollout.
    pub async fn rollout(&self, id: &RolloutId) -> Result<Rollout, ClientError> {
        self.get(&format!("/rollouts/{id}"), &()).await
    }

    /// How far a rollout is on each device.
    pub async fn rollout_devices(
        &self,
        id: &RolloutId,
        query: &RolloutDeviceQuery,
    ) -> Result<Page<RolloutDevice>, ClientError> {
        self.get(&format!("/rollouts/{id}/devices"), query).await
    }

    /// Makes a rollout; nothing happens before it is started. A `key` that nobody used before makes the call safe to repeat.
    pub async fn create_rollout(&self, rollout: &CreateRollout, key: Option<&str>) -> Result<Rollout, ClientError> {
        self.post_once("/rollouts", rollout, key).await
    }

    /// Consents to a rollout for some of its devices, or for all that wait for it.
    pub async fn consent_to_rollout(&self, id: &RolloutId, consent: &GiveConsent) -> Result<Rollout, ClientError> {
        self.post_once(&format!("/rollouts/{id}/consent"), consent, None).await
    }

    /// Starts, pauses, resumes or aborts a rollout; asking for what is already so changes nothing.
    pub async fn act_on_rollout(&self, id: &RolloutId, action: RolloutAction) -> Result<Rollout, ClientError> {
        self.post_empty(&format!("/rollouts/{id}/{}", action.as_str())).await
    }
}
