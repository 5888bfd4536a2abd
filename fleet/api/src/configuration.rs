//! Configuration: documents of an account, its groups and its devices, what they come to for one device, and what would change.

use protocol_types::{Digest, EndpointName, GroupName, RevisionStanding, RolloutId, UnixSeconds};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError, Page, PageQuery, Secret, words::RevisionStandingForm};

/// Whose document it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigurationLevel {
    /// That of the whole account.
    Account,
    /// That of a group.
    Group,
    /// That of one device.
    Device,
}

/// The document of one level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationDocument {
    /// Whose it is.
    pub level: ConfigurationLevel,
    /// Name of the group or device; empty for the account.
    pub name: String,
    /// Among groups: the higher one wins; of two that are equal, the one whose name comes later. 0 elsewhere.
    pub priority: u32,
    /// What it says, as a merge patch (RFC 7396): null takes away what the levels before it say.
    #[schema(value_type = Object)]
    pub document: Map<String, Value>,
    /// Counts every revision, 0 if none was ever saved; that of the one in force is also the `ETag`.
    pub revision: i64,
    /// When it was saved, in Unix seconds; 0 if it never was.
    #[schema(value_type = u64)]
    pub changed: UnixSeconds,
    /// Whether it is the one in force.
    #[serde(default)]
    #[schema(value_type = RevisionStandingForm)]
    pub standing: RevisionStanding,
}

/// A document that is to be saved, or tried in a preview.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveConfiguration {
    /// The whole document of the level, by the schema at `/configuration/schema`; at most 8 KiB.
    #[schema(value_type = Object)]
    pub document: Map<String, Value>,
    /// For a group: the higher one wins, at most 1000; without one it stays, and begins with 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub priority: Option<u32>,
}

/// Which revision of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RevisionQuery {
    /// The revision; without it, the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub revision: Option<i64>,
}

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationChange {
    /// Where: a JSON Pointer (RFC 6901), as in `/network/eth0/gateway`.
    pub path: String,
    /// What it was; absent if it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it is then; absent if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// What a document that is not saved yet would change for one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DevicePreview {
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// Every setting that would change; empty if the device would notice nothing.
    pub changes: Vec<ConfigurationChange>,
    /// Why the device could not be given what the documents would come to; absent if it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

/// What a document that is not saved yet would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationPreview {
    /// How many devices the level has now.
    pub devices: u64,
    /// How many devices of this page would notice a change.
    pub changed: u64,
    /// A page of the devices of the level, by name.
    pub items: Vec<DevicePreview>,
    /// Send this as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Where a setting of a device comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EffectiveSetting {
    /// Where: a JSON Pointer (RFC 6901).
    pub path: String,
    /// What it is.
    pub value: Value,
    /// The level whose document says so.
    pub level: ConfigurationLevel,
    /// Name of the group or device; empty for the account.
    pub name: String,
}

/// A document that takes part in the settings of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationLayer {
    /// Whose it is.
    pub level: ConfigurationLevel,
    /// Name of the group or device; empty for the account.
    pub name: String,
    /// Its priority among groups.
    pub priority: u32,
    /// Its revision.
    pub revision: i64,
    /// The rollout that gave it to the device before it is in force for all; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rollout: Option<RolloutId>,
}

/// How the settings of a device stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigurationStatus {
    /// No document says anything about it, and it was never given one.
    Unset,
    /// What the documents come to cannot be given to a device.
    Invalid,
    /// The device has not taken it yet.
    Waiting,
    /// It is in force on the device until the device has reached the service with it.
    Trial,
    /// It is in force.
    InForce,
    /// The device could not bring it into force.
    Refused,
    /// The device lost contact with it and took it back.
    Undone,
    /// The device reports other settings than those that it was given.
    Drifted,
}

/// What a device said last of its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReportedConfiguration {
    /// `none`, `trial`, `confirmed`, `refused` or `undone`.
    pub state: String,
    /// The generation that the state belongs to.
    pub generation: u64,
    /// Digest of the settings in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// Code of the reason, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// The reason in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, in Unix seconds.
    #[schema(value_type = u64)]
    pub received: UnixSeconds,
}

/// What the documents come to for one device, and what the device says of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EffectiveConfiguration {
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// How it stands.
    pub status: ConfigurationStatus,
    /// What the device should have.
    #[schema(value_type = Object)]
    pub document: Map<String, Value>,
    /// Its digest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Why it cannot be given to the device; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
    /// The documents that take part, in the order in which they are merged: later over earlier.
    pub layers: Vec<ConfigurationLayer>,
    /// Every setting and the level that it comes from.
    pub settings: Vec<EffectiveSetting>,
    /// The secrets of its applications and the level that each comes from, without their values.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// Whether the device has said to which key its secrets are sealed; it is given none before.
    #[serde(default)]
    pub takes_secrets: bool,
    /// The generation that the device was given last; 0 if none.
    pub generation: u64,
    /// What the device said last; absent if it said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<ReportedConfiguration>,
    /// Settings in which the document that the device last confirmed differs from the one that it should have.
    pub drift: Vec<ConfigurationChange>,
}

/// Names the document that a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigurationOf {
    /// That of the account.
    Account,
    /// That of a group.
    Group(GroupName),
    /// That of a device.
    Device(EndpointName),
}

impl ConfigurationOf {
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Account => "/configuration".to_owned(),
            Self::Group(name) => format!("/groups/{name}/configuration"),
            Self::Device(endpoint) => format!("/devices/{endpoint}/configuration"),
        }
    }
}

impl Client {
    /// The document of a level, the present one or an older revision.
    pub async fn configuration(
        &self,
        of: &ConfigurationOf,
        revision: Option<i64>,
    ) -> Result<ConfigurationDocument, ClientError> {
        self.get(&of.path(), &RevisionQuery { revision }).await
    }

    /// Saves the document of a level, if it is still at `revision`.
    pub async fn save_configuration(
        &self,
        of: &ConfigurationOf,
        wanted: &SaveConfiguration,
        revision: Option<i64>,
    ) -> Result<ConfigurationDocument, ClientError> {
        self.put(&of.path(), wanted, revision).await
    }

    /// Keeps a document as a revision that is in force nowhere.
    pub async fn stage_configuration(
        &self,
        of: &ConfigurationOf,
        wanted: &SaveConfiguration,
    ) -> Result<ConfigurationDocument, ClientError> {
        self.post_once(&format!("{}/revisions", of.path()), wanted, None).await
    }

    /// What a document would change, one page of devices.
    pub async fn preview_configuration(
        &self,
        of: &ConfigurationOf,
        wanted: &SaveConfiguration,
        page: &PageQuery,
    ) -> Result<ConfigurationPreview, ClientError> {
        let path = format!("{}/preview", of.path());
        self.json(&path, self.request(reqwest::Method::POST, &path).query(page).json(wanted)).await
    }

    /// The revisions of a document, oldest first.
    pub async fn configuration_revisions(
        &self,
        of: &ConfigurationOf,
        page: &PageQuery,
    ) -> Result<Page<ConfigurationDocument>, ClientError> {
        self.get(&format!("{}/revisions", of.path()), page).await
    }

    /// What the documents come to for a device.
    pub async fn effective_configuration(
        &self,
        endpoint: &EndpointName,
    ) -> Result<EffectiveConfiguration, ClientError> {
        self.get(&format!("/devices/{endpoint}/effective-configuration"), &()).await
    }

    /// The JSON Schema of the documents.
    pub async fn configuration_schema(&self) -> Result<Value, ClientError> {
        self.get("/configuration/schema", &()).await
    }
}
