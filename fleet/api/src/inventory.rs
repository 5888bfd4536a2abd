//! The directory as numbers, and as a file.

use reqwest::{Method, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError};

/// What to count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CountQuery {
    /// The field whose values are told apart, as in `os.version`; without it, all devices are one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Only devices that this filter is true for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 4096)]
    pub filter: Option<String>,
}

/// How many devices have one value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceCount {
    /// The value; absent for devices without one, and where values are not told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// How many devices have it.
    pub devices: u64,
}

/// Counts, the most frequent values first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceCounts {
    /// At most 1000 values.
    pub items: Vec<DeviceCount>,
    /// Whether there are more values.
    pub more: bool,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// Comma-separated values (RFC 4180) with a head line.
    Csv,
    /// A JSON object a line, as lists show devices.
    Jsonl,
}

/// What to export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// The form, `csv` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub format: Option<ExportFormat>,
    /// Only devices that this filter is true for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 4096)]
    pub filter: Option<String>,
}

impl Client {
    /// How many devices there are, by the value of a field.
    pub async fn count_devices(&self, query: &CountQuery) -> Result<DeviceCounts, ClientError> {
        self.get("/device-counts", query).await
    }

    /// The devices as a file, which comes bit by bit.
    pub async fn export_devices(&self, query: &ExportQuery) -> Result<Response, ClientError> {
        let path = "/device-export";
        self.send(path, self.request(Method::GET, path).query(query)).await
    }
}
