//! The device directory: who the devices of an account are, how they are, and what they should run.

use std::collections::BTreeMap;

use protocol_types::{Digest, EndpointName, Phase, Presence, RolloutId, Slot, Standing, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    Client, ClientError, Event, Page, PageQuery,
    words::{PresenceForm, StandingForm},
};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum AttributeValue {
    /// A text of at most 200 characters.
    Text(String),
    /// A number.
    Number(f64),
}

/// A device, as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Its name.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// Whether it may take part.
    #[schema(value_type = StandingForm)]
    pub standing: Standing,
    /// Why it stands so, if somebody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing_reason: Option<String>,
    /// Whether it is registered now.
    pub connected: bool,
    /// How it stands to the schedule that it has promised.
    #[schema(value_type = PresenceForm)]
    pub presence: Presence,
    /// When it was last heard, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub last_seen: Option<UnixSeconds>,
    /// When it joined, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When a factory reset was asked for that it has not taken yet, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub reset_asked: Option<UnixSeconds>,
    /// Tags that operators gave it.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Attributes that operators gave it.
    #[serde(default)]
    pub attributes: BTreeMap<String, AttributeValue>,
    /// Counts what operators change of it; also the `ETag`.
    #[serde(default)]
    pub revision: i64,
    /// What it last said about its software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<DeviceReport>,
}

/// What a device says about its software.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceReport {
    /// How far it is on its way to the wanted release.
    #[schema(value_type = String)]
    pub phase: Phase,
    /// A stable code for why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// One sentence for why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Per cent, while downloading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// The rollout that the phase belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rollout: Option<RolloutId>,
    /// Digest of the release document that the phase belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// Version that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_version: Option<String>,
    /// Digest of the release document that runs; absent for the factory image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub running_digest: Option<Digest>,
    /// The slot that was booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub slot: Option<Slot>,
    /// Releases below this security version are refused by the device.
    pub floor: u32,
    /// When the report came, in Unix seconds.
    #[schema(value_type = u64)]
    pub received: UnixSeconds,
}

/// One component that a device reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstalledComponent {
    /// `os`, or `application/NAME`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// What the device says of it, for example `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// An operational certificate of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceCertificate {
    /// Its serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// Serial number of the certificate that the device showed when it asked for this one.
    pub parent: String,
    /// Whether the parent was the factory certificate.
    pub from_factory: bool,
    /// When it was issued, in Unix seconds.
    #[schema(value_type = u64)]
    pub issued: UnixSeconds,
    /// When it ends, in Unix seconds.
    #[schema(value_type = u64)]
    pub not_after: UnixSeconds,
    /// When the device first used it, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub first_used: Option<UnixSeconds>,
}

/// What a device should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DesiredRelease {
    /// Target path of the release; absent if nothing is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Digest of the release document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// The rollout that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rollout: Option<RolloutId>,
    /// Whether the device has taken it.
    pub acknowledged: bool,
    /// When it changed, in Unix seconds.
    #[schema(value_type = u64)]
    pub changed: UnixSeconds,
}

/// Everything that the service knows of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    /// The device as lists show it.
    pub device: Device,
    /// What operators noted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// It has promised to be heard within so many seconds.
    pub lifetime: u32,
    /// It has promised to sleep in between; otherwise it stays connected.
    pub sleeps: bool,
    /// While it is not connected: from when on it is late, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub late_at: Option<UnixSeconds>,
    /// While it is not connected: from when on it is lost, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub lost_at: Option<UnixSeconds>,
    /// The factory authority that vouched for it when it last bootstrapped.
    pub authority: String,
    /// Serial number of its factory certificate.
    pub factory_serial: String,
    /// Manufacturer, from LwM2M resource 3/0/0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Model, from LwM2M resource 3/0/1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Serial number, from LwM2M resource 3/0/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// Firmware version, from LwM2M resource 3/0/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_version: Option<String>,
    /// Its operational certificates that have not ended, the newest first.
    pub certificates: Vec<DeviceCertificate>,
    /// What is installed.
    pub components: Vec<InstalledComponent>,
    /// What it should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<DesiredRelease>,
}

/// Which devices, and which page of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeviceQuery {
    /// `next` of the page before; without it, the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most items of the page: 1 to 500, 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// Only devices that this filter is true for (`docs/formats/filter.md`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 4096)]
    pub filter: Option<String>,
    /// Only devices in this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Only devices that are, or are not, registered now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// Only devices of this standing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<StandingForm>)]
    pub standing: Option<Standing>,
}

/// Changes what operators say of a device; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeDevice {
    /// The note from now on; at most 2000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000)]
    pub note: Option<String>,
    /// Attributes that come and go; a device has at most 100.
    #[serde(default)]
    pub attributes: ChangeAttributes,
    /// Tags that come and go; a device has at most 50.
    #[serde(default)]
    pub tags: ChangeTags,
}

/// Attributes that come and go. A key has 1 to 64 letters, digits, `_` and `-`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeAttributes {
    /// Attributes that it has from now on, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, AttributeValue>,
    /// Keys of attributes that it has no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub remove: Vec<String>,
}

/// Tags that come and go. A tag has 1 to 64 letters, digits, `_`, `-`, `.` and `:`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeTags {
    /// Tags that it has from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub add: Vec<String>,
    /// Tags that it has no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub remove: Vec<String>,
}

/// Suspends a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SuspendDevice {
    /// Why; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub reason: String,
}

/// Takes a device out of service for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecommissionDevice {
    /// Why; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub reason: String,
}

impl Client {
    /// The devices of the account, by name.
    pub async fn devices(&self, query: &DeviceQuery) -> Result<Page<Device>, ClientError> {
        self.get("/devices", query).await
    }

    /// Everything about one device.
    pub async fn device(&self, endpoint: &EndpointName) -> Result<DeviceDetail, ClientError> {
        self.get(&format!("/devices/{endpoint}"), &()).await
    }

    /// Changes what operators say of a device, if it is still at `revision`.
    pub async fn change_device(
        &self,
        endpoint: &EndpointName,
        change: &ChangeDevice,
        revision: Option<i64>,
    ) -> Result<Device, ClientError> {
        self.patch(&format!("/devices/{endpoint}"), change, revision).await
    }

    /// Keeps a device out until it is resumed.
    pub async fn suspend_device(&self, endpoint: &EndpointName, why: &SuspendDevice) -> Result<Device, ClientError> {
        self.post(&format!("/devices/{endpoint}/suspend"), why).await
    }

    /// Takes a device out of service for good. Its credentials and all that let it in are gone; it and its history stay.
    pub async fn decommission_device(
        &self,
        endpoint: &EndpointName,
        why: &DecommissionDevice,
    ) -> Result<Device, ClientError> {
        self.post(&format!("/devices/{endpoint}/decommission"), why).await
    }

    /// What happened to a device, the newest first.
    pub async fn device_history(&self, endpoint: &EndpointName, page: &PageQuery) -> Result<Page<Event>, ClientError> {
        self.get(&format!("/devices/{endpoint}/history"), page).await
    }

    /// Lets a suspended or quarantined device take part again.
    pub async fn resume_device(&self, endpoint: &EndpointName) -> Result<Device, ClientError> {
        self.post_empty(&format!("/devices/{endpoint}/resume")).await
    }

    /// Makes a device as new: its data, settings and applications go, its identity and its operating system stay.
    pub async fn reset_device(&self, endpoint: &EndpointName) -> Result<Device, ClientError> {
        self.post_empty(&format!("/devices/{endpoint}/factory-reset")).await
    }

    /// Forgets a device and its certificates. It may come back only if an enrolment still allows it.
    pub async fn delete_device(&self, endpoint: &EndpointName) -> Result<(), ClientError> {
        self.delete(&format!("/devices/{endpoint}")).await
    }
}
