//! Long operations: what takes longer than a request, with its progress and a report row by row. They go on after the service was
//! killed and do each row once.

use protocol_types::{GroupName, OperationState, RowOutcome, UnixSeconds};
use reqwest::{Method, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema, openapi::Object};

use crate::{
    ChangeDevice, Client, ClientError, ExportFormat, Page, PageQuery,
    words::{RowOutcomeForm, one_of},
};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Puts the certificates of a list among those that may join.
    EnrolList,
    /// Does the same to many devices.
    EditDevices,
}

impl OperationKind {
    /// The kind as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EnrolList => "enrol_list",
            Self::EditDevices => "edit_devices",
        }
    }
}

fn operation_state() -> Object {
    one_of(OperationState::ALL.iter().map(|state| state.as_str())).build()
}

/// A long operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id: `op-` and a number.
    pub id: String,
    /// What it does.
    pub kind: OperationKind,
    /// How far it is.
    #[schema(schema_with = operation_state)]
    pub state: OperationState,
    /// How many rows there are. For devices, how many the filter was true for at the beginning; at the end, how many had their turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Rows that were done.
    pub done: u64,
    /// Rows that were so already.
    pub unchanged: u64,
    /// Rows that were refused; the report says why.
    pub refused: u64,
    /// Which devices it is about, if it is about devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// A stable code for why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// One sentence for why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// When it began, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub started: Option<UnixSeconds>,
    /// When it ended, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub ended: Option<UnixSeconds>,
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationRow {
    /// Line of the list, where the head is line 1, or place among the devices.
    pub line: u64,
    /// The device or the certificate, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What became of it.
    #[schema(value_type = RowOutcomeForm)]
    pub outcome: RowOutcome,
    /// A stable code, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What is wrong, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Which rows of a report, and which page of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportQuery {
    /// Only rows of this outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline, value_type = Option<RowOutcomeForm>)]
    pub outcome: Option<RowOutcome>,
    /// `next` of the page before; without it, the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most items of the page: 1 to 500, 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

/// Which rows of a report, as a file of which form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportFileQuery {
    /// The form, `csv` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub format: Option<ExportFormat>,
    /// Only rows of this outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline, value_type = Option<RowOutcomeForm>)]
    pub outcome: Option<RowOutcome>,
}

/// Does the same to every device that a filter is true for when its turn comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditDevices {
    /// Which devices (`docs/formats/filter.md`); empty for every device of the account.
    #[schema(max_length = 4096)]
    pub filter: String,
    /// What is done to each.
    pub edit: DeviceEdit,
}

/// What is done to each device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceEdit {
    /// Change attributes, tags and the note.
    Change(ChangeDevice),
    /// Make it a listed member of this group.
    #[schema(value_type = String)]
    AddToGroup(GroupName),
    /// Take it from the listed members of this group.
    #[schema(value_type = String)]
    RemoveFromGroup(GroupName),
    /// Keep it out, for this reason of at most 200 characters.
    Suspend(String),
    /// Let it take part again.
    Resume,
    /// Take it out of service for good, for this reason of at most 200 characters.
    Decommission(String),
}

impl Client {
    /// The operations of the account, the newest first.
    pub async fn operations(&self, page: &PageQuery) -> Result<Page<Operation>, ClientError> {
        self.get("/operations", page).await
    }

    /// One operation.
    pub async fn operation(&self, id: &str) -> Result<Operation, ClientError> {
        self.get(&format!("/operations/{id}"), &()).await
    }

    /// What became of each row so far.
    pub async fn operation_report(&self, id: &str, query: &ReportQuery) -> Result<Page<OperationRow>, ClientError> {
        self.get(&format!("/operations/{id}/report"), query).await
    }

    /// The report as a file, which comes bit by bit.
    pub async fn operation_report_file(&self, id: &str, query: &ReportFileQuery) -> Result<Response, ClientError> {
        let path = format!("/operations/{id}/report-file");
        self.send(&path, self.request(Method::GET, &path).query(query)).await
    }

    /// Stops an operation; what was done stays.
    pub async fn cancel_operation(&self, id: &str) -> Result<Operation, ClientError> {
        self.post_empty(&format!("/operations/{id}/cancel")).await
    }

    /// Does the same to many devices. A `key` that nobody used before makes the call safe to repeat.
    pub async fn edit_devices(&self, edit: &EditDevices, key: Option<&str>) -> Result<Operation, ClientError> {
        self.post_once("/device-edits", edit, key).await
    }
}
