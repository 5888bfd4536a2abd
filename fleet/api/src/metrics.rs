//! Metrics: how devices are and were, in numbers.

use protocol_types::{
    EndpointName, UnixSeconds,
    metrics::{Metric, MetricStep},
};
use reqwest::{Method, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError, ExportFormat, words::MetricStepForm};

/// The newest value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricValue {
    /// What was measured.
    #[schema(value_type = String, example = "cpu.load")]
    pub metric: Metric,
    /// The value.
    pub value: f64,
    /// In what: `/` is a share of 1, `Cel` degrees Celsius, `B/s` bytes in a second, `count` a count since the state of the device was made.
    pub unit: String,
}

/// What a device measured last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceMetrics {
    /// When its newest sample was measured, in Unix seconds; absent if it never reported one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub time: Option<UnixSeconds>,
    /// Samples that the device has dropped since its agent began, for lack of room or of budget.
    pub dropped: u64,
    /// The newest values.
    pub values: Vec<MetricValue>,
}

/// What one metric did in the time of one point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricPoint {
    /// When that time begins, in Unix seconds.
    #[schema(value_type = u64)]
    pub time: UnixSeconds,
    /// What was measured.
    #[schema(value_type = String, example = "cpu.load")]
    pub metric: Metric,
    /// In what.
    pub unit: String,
    /// How many samples the point stands for.
    pub count: u32,
    /// Their mean.
    pub mean: f64,
    /// The least of them.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// The last.
    pub last: f64,
}

/// A part of a device's time series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricPoints {
    /// For how long each point stands.
    #[schema(value_type = MetricStepForm)]
    pub step: MetricStep,
    /// The points, by time and then by metric.
    pub items: Vec<MetricPoint>,
    /// `from` of the part that follows; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub next: Option<UnixSeconds>,
}

/// Which points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricQuery {
    /// Of this metric; of all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, example = "cpu.load")]
    pub metric: Option<Metric>,
    /// From this time on, in Unix seconds; the last day without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Before this time, in Unix seconds; until now without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// For how long each point stands; without it, samples of up to six hours, five minutes of up to three days, and hours of more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline, value_type = Option<MetricStepForm>)]
    pub step: Option<MetricStep>,
    /// At so many times at most; 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

/// Which points to export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricExportQuery {
    /// The form, `csv` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub format: Option<ExportFormat>,
    /// Of this metric; of all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, example = "cpu.load")]
    pub metric: Option<Metric>,
    /// From this time on, in Unix seconds; the last day without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Before this time, in Unix seconds; until now without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// For how long each point stands; without it, samples of up to six hours, five minutes of up to three days, and hours of more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline, value_type = Option<MetricStepForm>)]
    pub step: Option<MetricStep>,
}

/// What to summarise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricSummaryQuery {
    /// Of which metric; `cpu.load` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, example = "cpu.load")]
    pub metric: Option<Metric>,
    /// The field whose values are told apart, as in `os.version`; without it, all devices together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Only devices that this filter is true for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 4096)]
    pub filter: Option<String>,
    /// Values that are older than this, in seconds, do not count; 3600 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 2_592_000)]
    pub fresh_s: Option<u64>,
}

/// The newest values of some devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricSummary {
    /// The value of the field; absent for devices without one, and where values are not told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// How many devices have a value of the metric.
    pub devices: u64,
    /// The mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// Half of the devices have no more than this.
    pub median: f64,
    /// Nine of ten have no more than this.
    pub p90: f64,
    /// 99 of a hundred have no more than this.
    pub p99: f64,
}

/// Summaries, of the most frequent values first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricSummaries {
    /// What is summarised.
    #[schema(value_type = String, example = "cpu.load")]
    pub metric: Metric,
    /// In what.
    pub unit: String,
    /// At most 1000 values.
    pub items: Vec<MetricSummary>,
    /// Whether there are more values.
    pub more: bool,
}

impl Client {
    /// How a metric is now, over many devices.
    pub async fn summarise_metric(&self, query: &MetricSummaryQuery) -> Result<MetricSummaries, ClientError> {
        self.get("/metric-summaries", query).await
    }

    /// What a device measured last.
    pub async fn device_metrics(&self, endpoint: &EndpointName) -> Result<DeviceMetrics, ClientError> {
        self.get(&format!("/devices/{endpoint}/metrics"), &()).await
    }

    /// A part of the time series of a device.
    pub async fn metric_points(
        &self,
        endpoint: &EndpointName,
        query: &MetricQuery,
    ) -> Result<MetricPoints, ClientError> {
        self.get(&format!("/devices/{endpoint}/metric-points"), query).await
    }

    /// The time series of a device as a file, which comes bit by bit.
    pub async fn export_metrics(
        &self,
        endpoint: &EndpointName,
        query: &MetricExportQuery,
    ) -> Result<Response, ClientError> {
        let path = format!("/devices/{endpoint}/metric-export");
        self.send(&path, self.request(Method::GET, &path).query(query)).await
    }
}
