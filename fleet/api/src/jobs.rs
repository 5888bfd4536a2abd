//! Jobs: what many devices do once, each in its turn, with progress and a result for each.

use protocol_types::{AppName, CommandState, EndpointName, JobState, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    Client, ClientError, Page, PageQuery,
    words::{CommandStateForm, JobStateForm},
};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Collects the end of a log.
    Logs,
    /// Restarts devices in order.
    Reboot,
    /// Makes a check that the devices declare.
    Probe,
    /// Has devices get a certificate for a new key.
    #[serde(rename = "rotate-key")]
    RotateKey,
}

impl JobKind {
    /// The kind as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Reboot => "reboot",
            Self::Probe => "probe",
            Self::RotateKey => "rotate-key",
        }
    }
}

/// Whose log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// `mbl-agent`.
    Agent,
    /// `mbl-updater`.
    Updater,
    /// `mbl-apps`.
    Apps,
    /// What supervises the three.
    Board,
    /// The kernel.
    Kernel,
    /// What one application has printed.
    Application,
}

impl LogSource {
    /// All sources, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Agent, Self::Updater, Self::Apps, Self::Board, Self::Kernel, Self::Application];

    /// The source as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Updater => "updater",
            Self::Apps => "apps",
            Self::Board => "board",
            Self::Kernel => "kernel",
            Self::Application => "application",
        }
    }
}

/// How fast a job goes, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobBounds {
    /// Devices that are at it at a time: 1 to 10000, 20 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub concurrency: Option<u32>,
    /// Devices that are told in a minute: 1 to 100000, 600 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100000)]
    pub per_minute: Option<u32>,
    /// Seconds after which devices that have not ended are given up: 1 to 2592000, a day without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2592000)]
    pub deadline_s: Option<u64>,
}

/// Collects the end of a log of every device that a filter is true for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectLogs {
    /// Which devices (`docs/formats/filter.md`); empty for every device of the account.
    #[schema(max_length = 4096)]
    pub filter: String,
    /// Whose log.
    pub source: LogSource,
    /// Which application, with the source `application` and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub application: Option<AppName>,
    /// How many lines from the end: 1 to 1000; at most 24 KiB of them come.
    #[schema(minimum = 1, maximum = 1000)]
    pub lines: u32,
    /// How fast, and for how long.
    #[serde(default)]
    #[schema(inline)]
    pub bounds: JobBounds,
}

/// Restarts every device that a filter is true for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebootDevices {
    /// Which devices (`docs/formats/filter.md`); empty for every device of the account.
    #[schema(max_length = 4096)]
    pub filter: String,
    /// How fast, and for how long.
    #[serde(default)]
    #[schema(inline)]
    pub bounds: JobBounds,
}

/// Has every device that a filter is true for get an operational certificate for a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// Which devices (`docs/formats/filter.md`); empty for every device of the account.
    #[schema(max_length = 4096)]
    pub filter: String,
    /// How fast, and for how long.
    #[serde(default)]
    #[schema(inline)]
    pub bounds: JobBounds,
}

/// Has every device that a filter is true for make a check that it declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunProbe {
    /// Which devices (`docs/formats/filter.md`); empty for every device of the account.
    #[schema(max_length = 4096)]
    pub filter: String,
    /// The name of the check: `disk`, `memory`, `network`, `time`, or another that the devices declare.
    #[schema(pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub probe: String,
    /// How fast, and for how long.
    #[serde(default)]
    #[schema(inline)]
    pub bounds: JobBounds,
}

/// How many devices of a job are how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobCounts {
    /// Their turn has not come, or they are away.
    pub waiting: u64,
    /// They were told.
    pub sent: u64,
    /// They are at it.
    pub active: u64,
    /// They have done it.
    pub done: u64,
    /// They failed at it or cannot do it.
    pub failed: u64,
    /// They were not there before the deadline.
    pub expired: u64,
    /// The job was stopped before their turn came.
    pub cancelled: u64,
    /// They took it and did not tell its end before the deadline.
    pub unknown: u64,
}

impl JobCounts {
    /// All devices that were chosen.
    pub const fn total(&self) -> u64 {
        self.waiting + self.sent + self.active + self.ended()
    }

    /// Devices for which nothing more happens.
    pub const fn ended(&self) -> u64 {
        self.done + self.failed + self.expired + self.cancelled + self.unknown
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id: `j-` and a number.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// Whose log, if it collects logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<LogSource>,
    /// Which application's log, if it collects that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub application: Option<AppName>,
    /// How many lines, if it collects logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Which check, if it makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// Which devices; they were chosen when it began.
    pub filter: String,
    /// How far it is.
    #[schema(value_type = JobStateForm)]
    pub state: JobState,
    /// How many devices are how far.
    pub devices: JobCounts,
    /// Devices that are at it at a time.
    pub concurrency: u64,
    /// Devices that are told in a minute.
    pub per_minute: u64,
    /// When it was asked for.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When devices that have not ended by then are given up.
    #[schema(value_type = u64)]
    pub deadline: UnixSeconds,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub started: Option<UnixSeconds>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub ended: Option<UnixSeconds>,
}

/// The part of one device in a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobDevice {
    /// The device.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// Its command.
    pub command: String,
    /// How far it is.
    #[schema(value_type = CommandStateForm)]
    pub state: CommandState,
    /// A stable code for why it did not end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// One sentence for why it did not end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it has brought; only where one device is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// How long what it has brought is, in bytes.
    pub result_bytes: u64,
    /// When it was last told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub sent: Option<UnixSeconds>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub ended: Option<UnixSeconds>,
}

/// Which devices of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobDeviceQuery {
    /// `next` of the page before; without it, the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most items of the page: 1 to 500, 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// Only devices that are so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline, value_type = Option<CommandStateForm>)]
    pub state: Option<CommandState>,
}

impl Client {
    /// Collects the end of a log of many devices. A `key` that nobody used before makes the call safe to repeat.
    pub async fn collect_logs(&self, wanted: &CollectLogs, key: Option<&str>) -> Result<Job, ClientError> {
        self.post_once("/jobs/logs", wanted, key).await
    }

    /// Restarts many devices.
    pub async fn reboot_devices(&self, wanted: &RebootDevices, key: Option<&str>) -> Result<Job, ClientError> {
        self.post_once("/jobs/reboot", wanted, key).await
    }

    /// Has many devices get a certificate for a new key.
    pub async fn rotate_keys(&self, wanted: &RotateKeys, key: Option<&str>) -> Result<Job, ClientError> {
        self.post_once("/jobs/rotate-key", wanted, key).await
    }

    /// Has many devices make a check that they declare.
    pub async fn run_probe(&self, wanted: &RunProbe, key: Option<&str>) -> Result<Job, ClientError> {
        self.post_once("/jobs/probe", wanted, key).await
    }

    /// The jobs of the account, the newest first.
    pub async fn jobs(&self, page: &PageQuery) -> Result<Page<Job>, ClientError> {
        self.get("/jobs", page).await
    }

    /// One job.
    pub async fn job(&self, id: &str) -> Result<Job, ClientError> {
        self.get(&format!("/jobs/{id}"), &()).await
    }

    /// The devices of a job, in the order of their names.
    pub async fn job_devices(&self, id: &str, query: &JobDeviceQuery) -> Result<Page<JobDevice>, ClientError> {
        self.get(&format!("/jobs/{id}/devices"), query).await
    }

    /// The part of one device in a job, with what it has brought.
    pub async fn job_device(&self, id: &str, endpoint: &EndpointName) -> Result<JobDevice, ClientError> {
        self.get(&format!("/jobs/{id}/devices/{endpoint}"), &()).await
    }

    /// Stops a job; what was told goes on.
    pub async fn cancel_job(&self, id: &str) -> Result<Job, ClientError> {
        self.post_empty(&format!("/jobs/{id}/cancel")).await
    }
}
