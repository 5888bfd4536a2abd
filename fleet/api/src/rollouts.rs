//! Rollouts: which release or configuration goes to which devices, how carefully, and how far it is on each.

use std::collections::BTreeMap;

use protocol_types::{
    Consent, DeviceState, Digest, EndpointName, GroupName, OnFailure, Reason, ReleaseVersion, RolloutAction, RolloutId,
    RolloutState, UnixSeconds, WaitingFor,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema, openapi::Object};

use crate::{
    Client, ClientError, ConfigurationLevel, FailureThreshold, GiveConsent, Page, Rate, Retries, Wave, Window,
    words::{ConsentForm, OnFailureForm, one_of},
};

fn rollout_state() -> Object {
    one_of(RolloutState::ALL.iter().map(|state| state.as_str())).build()
}

fn device_state() -> Object {
    one_of(DeviceState::ALL.iter().map(|state| state.as_str())).build()
}

fn waiting_for() -> Object {
    one_of(WaitingFor::ALL.iter().map(|what| what.as_str())).build()
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
    /// Every device of the account, also those that join until the audience is closed.
    All,
    /// The devices in a group, also those that come into it until the audience is closed.
    #[schema(value_type = String)]
    Group(GroupName),
    /// The devices that a filter is true for, also those for which it becomes true until the audience is closed.
    Filter(String),
    /// These devices, at most 10000; such an audience is closed from the beginning.
    #[schema(value_type = Vec<String>)]
    Devices(Vec<EndpointName>),
}

/// A revision of a document of configuration that is newer than the one in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StagedConfiguration {
    /// Whose document it is.
    pub level: ConfigurationLevel,
    /// Name of the group or device; empty for the account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 64)]
    pub name: String,
    /// The revision.
    #[schema(minimum = 1)]
    pub revision: i64,
}

/// Asks for a new rollout of a release or of a configuration; nothing happens before it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRollout {
    /// What people call it; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100)]
    pub name: Option<String>,
    /// The release, unless it is a rollout of a configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub release: Option<ReleaseVersion>,
    /// The configuration, unless it is a rollout of a release. If its audience is every device that the document is for, the
    /// revision is in force once the rollout has ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<StagedConfiguration>,
    /// For which devices.
    pub audience: Audience,
    /// How many may fail; without it the first failed device stops the rollout.
    #[serde(default)]
    pub failure_threshold: FailureThreshold,
    /// What happens when too many failed.
    #[serde(default)]
    #[schema(value_type = OnFailureForm)]
    pub on_failure: OnFailure,
    /// Which devices go first, at most 20 waves; what none takes goes last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub waves: Vec<Wave>,
    /// Per cent of a wave that must have succeeded before the next one begins. Without it the next one begins when every device of the
    /// wave has come to an end, apart from those that were not heard for a day, and one has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub success_percent: Option<u8>,
    /// How many devices are offered the release in an hour; absent for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How often a device that failed is tried again; never without it.
    #[serde(default)]
    pub retries: Retries,
    /// A device on which so many tries in a row failed, of this or other rollouts, is held back until somebody forgives it; 0 for never.
    #[serde(default = "hold_after")]
    pub hold_after: u32,
    /// Of two rollouts for a device the one with the higher priority decides, among equals the one that was started later; 0 to 100.
    #[serde(default = "priority")]
    #[schema(maximum = 100)]
    pub priority: u8,
    /// Nothing is offered before this moment, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub not_before: Option<UnixSeconds>,
    /// Whether the audience is what it is at the start; otherwise it admits devices until somebody closes it.
    #[serde(default)]
    pub close_audience: bool,
    /// Whether somebody else than who starts the rollout must approve it before anything is offered.
    #[serde(default)]
    pub approval: bool,
    /// How many devices may be under way at a time; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_in_flight: Option<u32>,
    /// When it may offer the release; absent for always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Whose yes each device needs; without it nobody's.
    #[serde(default)]
    #[schema(value_type = ConsentForm)]
    pub consent: Consent,
    /// From this moment on, in Unix seconds, devices install the release without a yes of somebody at them; never without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub consent_deadline: Option<UnixSeconds>,
    /// Seconds after which a device at which somebody said no asks again; at least 1.
    #[serde(default = "ask_again_s")]
    #[schema(minimum = 1)]
    pub ask_again_s: u32,
}

const fn hold_after() -> u32 {
    CreateRollout::HOLD_AFTER
}

const fn ask_again_s() -> u32 {
    CreateRollout::ASK_AGAIN_S
}

const fn priority() -> u8 {
    CreateRollout::PRIORITY
}

impl CreateRollout {
    /// Failed tries in a row at which a device is held back, where nobody says otherwise.
    pub const HOLD_AFTER: u32 = 5;
    /// Seconds after which a device at which somebody said no asks again, where nobody says otherwise: a day.
    pub const ASK_AGAIN_S: u32 = 24 * 60 * 60;
    /// The priority where nobody says otherwise.
    pub const PRIORITY: u8 = 50;

    /// A rollout of a release that leaves everything else as it is without a word.
    pub const fn new(release: ReleaseVersion, audience: Audience) -> Self {
        Self {
            name: None,
            release: Some(release),
            configuration: None,
            audience,
            failure_threshold: FailureThreshold::Count(1),
            on_failure: OnFailure::Stop,
            waves: Vec::new(),
            success_percent: None,
            rate: None,
            retries: Retries { most: 0, first_delay_s: 0 },
            hold_after: Self::HOLD_AFTER,
            priority: Self::PRIORITY,
            not_before: None,
            close_audience: false,
            approval: false,
            max_in_flight: None,
            window: None,
            consent: Consent::Automatic,
            consent_deadline: None,
            ask_again_s: Self::ASK_AGAIN_S,
        }
    }
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// Its name in addresses and on devices.
    #[schema(value_type = String)]
    pub id: RolloutId,
    /// What people call it.
    pub name: String,
    /// The release, unless it brings a configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub release: Option<ReleaseVersion>,
    /// The configuration, if it brings one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<StagedConfiguration>,
    /// Digest of the document of the release, or of the configuration.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// For which devices.
    pub audience: Audience,
    /// How many may fail.
    pub failure_threshold: FailureThreshold,
    /// What happens when too many failed.
    #[serde(default)]
    #[schema(value_type = OnFailureForm)]
    pub on_failure: OnFailure,
    /// Which devices go first, at most 20 waves; what none takes goes last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub waves: Vec<Wave>,
    /// Per cent of a wave that must have succeeded before the next one begins. Without it the next one begins when every device of the
    /// wave has come to an end, apart from those that were not heard for a day, and one has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub success_percent: Option<u8>,
    /// How many devices are offered the release in an hour; absent for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How often a device that failed is tried again; never without it.
    #[serde(default)]
    pub retries: Retries,
    /// A device on which so many tries in a row failed, of this or other rollouts, is held back until somebody forgives it; 0 for never.
    #[serde(default = "hold_after")]
    pub hold_after: u32,
    /// Of two rollouts for a device the one with the higher priority decides, among equals the one that was started later; 0 to 100.
    #[serde(default = "priority")]
    #[schema(maximum = 100)]
    pub priority: u8,
    /// Nothing is offered before this moment, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub not_before: Option<UnixSeconds>,
    /// Whether the audience admits no further devices.
    #[serde(default)]
    pub audience_closed: bool,
    /// Whether somebody else than who starts the rollout must approve it.
    #[serde(default)]
    pub approval: bool,
    /// Who started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
    /// Who approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// The wave that was opened last, from 1; the last one holds what no other wave takes.
    #[serde(default)]
    pub open_wave: u32,
    /// The rollout whose devices this one brings back to what they ran before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub brings_back: Option<RolloutId>,
    /// How many devices may be under way at a time; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// When it may offer the release; absent for always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Whose yes each device needs.
    #[serde(default)]
    #[schema(value_type = ConsentForm)]
    pub consent: Consent,
    /// From this moment on, in Unix seconds, devices install the release without a yes of somebody at them; never without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub consent_deadline: Option<UnixSeconds>,
    /// Seconds after which a device at which somebody said no asks again.
    #[serde(default = "ask_again_s")]
    pub ask_again_s: u32,
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
    /// Its wave, from 1, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// Tries of the rollout that failed on it.
    #[serde(default)]
    pub failed_tries: u32,
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

    /// Starts, pauses, resumes, aborts, closes or approves a rollout, or lets its devices ask again; asking for what is already so changes nothing.
    pub async fn act_on_rollout(&self, id: &RolloutId, action: RolloutAction) -> Result<Rollout, ClientError> {
        self.post_empty(&format!("/rollouts/{id}/{}", action.as_str())).await
    }
}
