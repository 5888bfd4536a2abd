//! Alerts: rules that look at devices and events, what they have found, and when nobody wants to hear of it.

use protocol_types::{AlertState, EndpointName, GroupName, Severity, UnixSeconds, metrics::Metric};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    Client, ClientError, Page, PageQuery,
    words::{AlertStateForm, SeverityForm},
};

/// What a rule looks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AlertCondition {
    /// An active device has broken its own promise: it is late or lost.
    Absence {},
    /// A filter is true for a device.
    State {
        /// The filter.
        #[schema(max_length = 4096)]
        filter: String,
    },
    /// So many events within some time.
    Rate {
        /// Kinds of events, as in `device.disconnected` or `rollout.*`; at least one, and none of alerts.
        #[schema(min_items = 1, max_items = 32)]
        types: Vec<String>,
        /// So many raise the alert.
        #[schema(minimum = 1, maximum = 1_000_000)]
        events: u32,
        /// Fewer than so many end it; without it, fewer than raise it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clear_below: Option<u32>,
        /// Within so many seconds.
        #[schema(minimum = 1, maximum = 604_800)]
        within_s: u64,
        /// Whether they are counted over the whole account; otherwise for each device.
        #[serde(default)]
        whole_account: bool,
    },
    /// The newest value of a metric of a device is beyond a threshold. Name `above` or `below`.
    Threshold {
        /// Of what.
        #[schema(value_type = String, example = "cpu.load")]
        metric: Metric,
        /// A value above this one raises the alert; to the resolution of the metric.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        above: Option<f64>,
        /// A value below this one raises the alert.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        below: Option<f64>,
        /// The value that ends the alert: one that is not above, or not below, this one. Without it, the threshold itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clear: Option<f64>,
        /// A value that is older than this, in seconds, says nothing of the present: it neither raises nor ends an alert.
        #[serde(default = "default_fresh_s")]
        #[schema(minimum = 60, maximum = 2_592_000)]
        fresh_s: u64,
    },
}

const fn default_fresh_s() -> u64 {
    3600
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlertRule {
    /// Its name, for ever.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// How bad its alerts are.
    #[schema(value_type = SeverityForm)]
    pub severity: Severity,
    /// A filter: the devices that it looks at; empty for all.
    pub filter: String,
    /// What it looks for.
    pub condition: AlertCondition,
    /// Seconds that the condition must hold before an alert is raised.
    pub for_s: u64,
    /// Seconds that it must not hold any more before the alert is resolved.
    pub clear_for_s: u64,
    /// Seconds after which an alert that nobody has acknowledged is told of again; 0 for never.
    pub remind_s: u64,
    /// Whether it looks at all.
    pub enabled: bool,
    /// How many of its alerts are raised.
    pub raised: u64,
    /// Whether 1,000 of its alerts are open, which is the most there may be; further devices wait.
    pub is_full: bool,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// Counts every change that a person makes; also the `ETag`.
    pub revision: i64,
}

const fn default_for_s() -> u64 {
    300
}

const fn default_clear_for_s() -> u64 {
    60
}

/// Asks for a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAlertRule {
    /// Its name: 1 to 32 lower-case letters, digits or `-`, starting with a letter.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: String,
    /// How bad its alerts are.
    #[schema(value_type = SeverityForm)]
    pub severity: Severity,
    /// A filter: the devices that it looks at; empty for all.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub filter: String,
    /// What it looks for.
    pub condition: AlertCondition,
    /// Seconds that the condition must hold before an alert is raised; 300 without.
    #[serde(default = "default_for_s")]
    #[schema(maximum = 2_592_000)]
    pub for_s: u64,
    /// Seconds that it must not hold any more before the alert is resolved; 60 without.
    #[serde(default = "default_clear_for_s")]
    #[schema(maximum = 2_592_000)]
    pub clear_for_s: u64,
    /// Seconds after which an alert that nobody has acknowledged is told of again; 0, and without it, never.
    #[serde(default)]
    #[schema(maximum = 2_592_000)]
    pub remind_s: u64,
}

/// Changes a rule; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeAlertRule {
    /// What people call it from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub title: Option<String>,
    /// How bad alerts are that it raises from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SeverityForm>)]
    pub severity: Option<Severity>,
    /// The devices that it looks at from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub filter: Option<String>,
    /// What it looks for from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<AlertCondition>,
    /// Seconds that the condition must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2_592_000)]
    pub for_s: Option<u64>,
    /// Seconds that it must not hold any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2_592_000)]
    pub clear_for_s: Option<u64>,
    /// Seconds between two reminders; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 2_592_000)]
    pub remind_s: Option<u64>,
    /// Whether it looks at all. A rule that does not has no open alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Somebody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledgement {
    /// Since when, in Unix seconds.
    #[schema(value_type = u64)]
    pub time: UnixSeconds,
    /// Who, as in `service/ci` or `token/1f0c…`.
    pub by: String,
    /// What they said.
    pub note: String,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its id, as in `al-7`.
    pub id: String,
    /// The rule that found it.
    #[schema(value_type = String)]
    pub rule: GroupName,
    /// The device that it is about; without it, the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub device: Option<EndpointName>,
    /// How bad it is.
    #[schema(value_type = SeverityForm)]
    pub severity: Severity,
    /// How far it is.
    #[schema(value_type = AlertStateForm)]
    pub state: AlertState,
    /// From when on the condition held, in Unix seconds.
    #[schema(value_type = u64)]
    pub since: UnixSeconds,
    /// When it was raised, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub raised: Option<UnixSeconds>,
    /// When an event last told of it, in Unix seconds; absent while it is silenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub told: Option<UnixSeconds>,
    /// When it was resolved, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub resolved: Option<UnixSeconds>,
    /// Who knows of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledgement>,
}

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AlertQuery {
    /// Only those that are so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline, value_type = Option<AlertStateForm>)]
    pub state: Option<AlertState>,
    /// Only those of this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub rule: Option<GroupName>,
    /// `next` of the page before; without it, the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most items of the page: 1 to 500, 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

/// Says that somebody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeAlert {
    /// What they say; at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub note: String,
}

/// A time in which alerts are not told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silence {
    /// Its id, as in `si-7`.
    pub id: String,
    /// The rule whose alerts are meant; without it, every rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rule: Option<GroupName>,
    /// A filter: the devices that are meant; empty for all, and for alerts that are about no device.
    pub filter: String,
    /// When it is over, in Unix seconds.
    #[schema(value_type = u64)]
    pub until: UnixSeconds,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub made_by: String,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
}

/// Asks for a silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSilence {
    /// The rule whose alerts are meant; without it, every rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rule: Option<GroupName>,
    /// A filter: the devices that are meant; empty for all.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub filter: String,
    /// When it is over, in Unix seconds.
    #[schema(value_type = u64)]
    pub until: UnixSeconds,
    /// Why; 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
}

impl Client {
    /// The rules of the account, by name.
    pub async fn alert_rules(&self, page: &PageQuery) -> Result<Page<AlertRule>, ClientError> {
        self.get("/alert-rules", page).await
    }

    /// One rule.
    pub async fn alert_rule(&self, name: &GroupName) -> Result<AlertRule, ClientError> {
        self.get(&format!("/alert-rules/{name}"), &()).await
    }

    /// Makes a rule.
    pub async fn create_alert_rule(&self, wanted: &CreateAlertRule) -> Result<AlertRule, ClientError> {
        self.post("/alert-rules", wanted).await
    }

    /// Changes a rule, if it is still at `revision`.
    pub async fn change_alert_rule(
        &self,
        name: &GroupName,
        change: &ChangeAlertRule,
        revision: Option<i64>,
    ) -> Result<AlertRule, ClientError> {
        self.patch(&format!("/alert-rules/{name}"), change, revision).await
    }

    /// Forgets a rule and resolves its alerts.
    pub async fn delete_alert_rule(&self, name: &GroupName) -> Result<(), ClientError> {
        self.delete(&format!("/alert-rules/{name}")).await
    }

    /// The alerts of the account, the newest first.
    pub async fn alerts(&self, query: &AlertQuery) -> Result<Page<Alert>, ClientError> {
        self.get("/alerts", query).await
    }

    /// One alert.
    pub async fn alert(&self, id: &str) -> Result<Alert, ClientError> {
        self.get(&format!("/alerts/{id}"), &()).await
    }

    /// Says that somebody knows of an alert.
    pub async fn acknowledge_alert(&self, id: &str, note: &str) -> Result<Alert, ClientError> {
        self.post(&format!("/alerts/{id}/acknowledge"), &AcknowledgeAlert { note: note.to_owned() }).await
    }

    /// The silences of the account, the newest first.
    pub async fn silences(&self, page: &PageQuery) -> Result<Page<Silence>, ClientError> {
        self.get("/silences", page).await
    }

    /// Makes a silence.
    pub async fn create_silence(&self, wanted: &CreateSilence) -> Result<Silence, ClientError> {
        self.post("/silences", wanted).await
    }

    /// Ends a silence now.
    pub async fn end_silence(&self, id: &str) -> Result<Silence, ClientError> {
        self.post_empty(&format!("/silences/{id}/end")).await
    }
}
