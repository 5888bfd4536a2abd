//! Commands: read, write, execute and observe on a device. A command is a resource of its own, so it waits for a device that is away,
//! survives a restart of the service, and can be taken back.

use protocol_types::{CommandKind, CommandState, EndpointName, Presence, UnixSeconds};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    Client, ClientError, Page, PageQuery,
    words::{CommandKindForm, CommandStateForm, PresenceForm},
};

/// What a resource holds (OMA LwM2M 1.1, appendix C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResourceType {
    /// UTF-8 text.
    String,
    /// Signed integer of up to 64 bits, in decimal.
    Integer,
    /// Unsigned integer of up to 64 bits, in decimal.
    Unsigned,
    /// Floating point number.
    Float,
    /// `true` or `false`.
    Boolean,
    /// Bytes, in Base64.
    Opaque,
    /// Seconds since 1970-01-01T00:00:00Z.
    Time,
    /// An object and an instance, as in `3:0`.
    ObjectLink,
    /// Links in CoRE link format.
    CoreLink,
}

impl ResourceType {
    /// All types.
    pub const ALL: [Self; 9] = [
        Self::String,
        Self::Integer,
        Self::Unsigned,
        Self::Float,
        Self::Boolean,
        Self::Opaque,
        Self::Time,
        Self::ObjectLink,
        Self::CoreLink,
    ];

    /// The type as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Unsigned => "unsigned",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Opaque => "opaque",
            Self::Time => "time",
            Self::ObjectLink => "object_link",
            Self::CoreLink => "core_link",
        }
    }
}

/// A value and where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceValue {
    /// The resource or resource instance, as in `/3/0/13`.
    pub path: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: ResourceType,
    /// What it holds, as text in the form that belongs to the type, so that no client loses a digit.
    pub value: String,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Command {
    /// Its id: `c-` and a number.
    pub id: String,
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// What is asked.
    #[schema(value_type = CommandKindForm)]
    pub kind: CommandKind,
    /// The path that it is about.
    pub path: String,
    /// How far it is.
    #[schema(value_type = CommandStateForm)]
    pub state: CommandState,
    /// The job that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What was read, or what an observation began with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<ResourceValue>,
    /// A stable code for why it did not end well: `coap_4_04` and the like for what the device answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// One sentence for why it did not end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often it was sent.
    pub tries: u64,
    /// How the device stands to its promised schedule.
    #[schema(value_type = PresenceForm)]
    pub presence: Presence,
    /// Until when a device that is away has promised to be heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub expected_by: Option<UnixSeconds>,
    /// When it was asked for.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When it expires if the device has not taken it; when an observation ends.
    #[schema(value_type = u64)]
    pub deadline: UnixSeconds,
    /// When it was last sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub sent: Option<UnixSeconds>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub ended: Option<UnixSeconds>,
}

/// Reads from a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadResource {
    /// An object, instance, resource or resource instance, as in `/3/0/13`.
    #[schema(max_length = 24)]
    pub path: String,
    /// Seconds until it expires if the device does not take it: 1 to 2592000, an hour without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2592000)]
    pub deadline_s: Option<u64>,
}

/// Writes a value to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteResource {
    /// A resource or resource instance, as in `/1/0/2`.
    #[schema(max_length = 24)]
    pub path: String,
    /// The value as text, in the form that belongs to its type.
    #[schema(max_length = 8192)]
    pub value: String,
    /// The type; needed for resources of objects that the service does not know.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub kind: Option<ResourceType>,
    /// Seconds until it expires if the device does not take it: 1 to 2592000, an hour without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2592000)]
    pub deadline_s: Option<u64>,
}

/// Executes a resource of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteResource {
    /// A resource, as in `/3/0/4`.
    #[schema(max_length = 24)]
    pub path: String,
    /// Arguments as LwM2M writes them, as in `0='5'`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 512)]
    pub arguments: String,
    /// Seconds until it expires if the device does not take it: 1 to 2592000, an hour without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2592000)]
    pub deadline_s: Option<u64>,
}

/// Observes what lies at a path of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveResource {
    /// An object, instance, resource or resource instance, as in `/3/0/13`.
    #[schema(max_length = 24)]
    pub path: String,
    /// Seconds until the observation ends: 1 to 86400, ten minutes without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub duration_s: Option<u64>,
}

/// How long to wait for the end of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CommandQuery {
    /// Answer when the command has ended, and at the latest after so many seconds: 0 to 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 20)]
    pub wait_s: Option<u64>,
}

/// Which values of an observation, and how long to wait for the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CommandValuesQuery {
    /// Only values after the one of this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0)]
    pub after: Option<u64>,
    /// Answer when there is a value or the observation has ended, and at the latest after so many seconds: 0 to 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 20)]
    pub wait_s: Option<u64>,
}

/// What an observation brought at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObservedValues {
    /// 1, 2, 3 and so on; where numbers are missing, older values have made room.
    pub number: u64,
    /// When it came, in Unix seconds.
    #[schema(value_type = u64)]
    pub time: UnixSeconds,
    /// What lies at and below the observed path.
    pub values: Vec<ResourceValue>,
}

/// What an observation has brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observed {
    /// How far the observation is; after its end nothing more comes.
    #[schema(value_type = CommandStateForm)]
    pub state: CommandState,
    /// The values, the oldest first; at most 256 are kept.
    pub items: Vec<ObservedValues>,
}

impl Client {
    /// Reads from a device. A `key` that nobody used before makes the call safe to repeat.
    pub async fn read_resource(
        &self,
        endpoint: &EndpointName,
        wanted: &ReadResource,
        key: Option<&str>,
    ) -> Result<Command, ClientError> {
        self.post_once(&format!("/devices/{endpoint}/read"), wanted, key).await
    }

    /// Writes a value to a device.
    pub async fn write_resource(
        &self,
        endpoint: &EndpointName,
        wanted: &WriteResource,
        key: Option<&str>,
    ) -> Result<Command, ClientError> {
        self.post_once(&format!("/devices/{endpoint}/write"), wanted, key).await
    }

    /// Executes a resource of a device.
    pub async fn execute_resource(
        &self,
        endpoint: &EndpointName,
        wanted: &ExecuteResource,
        key: Option<&str>,
    ) -> Result<Command, ClientError> {
        self.post_once(&format!("/devices/{endpoint}/execute"), wanted, key).await
    }

    /// Observes what lies at a path of a device.
    pub async fn observe_resource(
        &self,
        endpoint: &EndpointName,
        wanted: &ObserveResource,
        key: Option<&str>,
    ) -> Result<Command, ClientError> {
        self.post_once(&format!("/devices/{endpoint}/observe"), wanted, key).await
    }

    /// The commands of a device, the newest first.
    pub async fn commands(&self, endpoint: &EndpointName, page: &PageQuery) -> Result<Page<Command>, ClientError> {
        self.get(&format!("/devices/{endpoint}/commands"), page).await
    }

    /// One command of a device; the service may be asked to wait for its end.
    pub async fn command(
        &self,
        endpoint: &EndpointName,
        id: &str,
        query: &CommandQuery,
    ) -> Result<Command, ClientError> {
        self.get(&format!("/devices/{endpoint}/commands/{id}"), query).await
    }

    /// What an observation has brought.
    pub async fn observed(
        &self,
        endpoint: &EndpointName,
        id: &str,
        query: &CommandValuesQuery,
    ) -> Result<Observed, ClientError> {
        self.get(&format!("/devices/{endpoint}/commands/{id}/values"), query).await
    }

    /// Takes a command back that the device has not heard of, or ends an observation.
    pub async fn cancel_command(&self, endpoint: &EndpointName, id: &str) -> Result<Command, ClientError> {
        let path = format!("/devices/{endpoint}/commands/{id}");
        self.json(&path, self.request(Method::DELETE, &path)).await
    }
}
