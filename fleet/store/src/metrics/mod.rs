//! How devices are, in numbers, as time series: what each said last, its samples, and coarser points of them. What is written is written once:
//! samples come in the order of their times, so what was condensed never changes.
//!
//! ```text
//! record    takes reports of many devices in one transaction
//! condense  makes points of five minutes and of an hour in the background, and forgets what is old
//! series    answers for one device, whatever is condensed already
//! summary   answers for many devices, by their newest values
//! points    samples → five minutes → an hour
//! chunk     the bytes of a piece of a time series
//! ```

mod chunk;
mod condense;
mod points;
mod record;
mod series;
mod summary;
#[cfg(test)]
mod tests;

use protocol_types::{
    UnixSeconds,
    metrics::{Metric, MetricStep, Readings},
};
use sqlx::{Row, any::AnyRow};

use crate::{
    StoreError,
    error::cannot,
    numbers::{from_sql, time},
};

pub use condense::MetricRetention;
pub use record::MetricReport;
pub use series::{MetricPoint, MetricRange, MetricSeries};
pub use summary::{MetricSummary, SummaryQuery};

/// Samples that are older than this when they arrive are not kept, in seconds: an hour is complete once a sample of a later one is there, or once
/// this has passed.
pub(crate) const LONGEST_AWAY_S: u64 = 25 * HOUR_S;
pub(crate) const FINE_S: u64 = MetricStep::FiveMinutes.seconds();
pub(crate) const HOUR_S: u64 = MetricStep::Hour.seconds();
pub(crate) const DAY_S: u64 = 24 * HOUR_S;

/// What a device said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatestMetrics {
    /// When the newest sample was measured.
    pub time: UnixSeconds,
    /// How many samples the device has dropped since its agent began.
    pub dropped: u64,
    /// The values, in steps.
    pub readings: Readings,
}

/// The column that holds the newest value of a metric.
pub(crate) const fn column(metric: Metric) -> &'static str {
    match metric {
        Metric::CpuLoad => "cpu_load",
        Metric::MemoryUsed => "memory_used",
        Metric::StorageUsed => "storage_used",
        Metric::Temperature => "temperature",
        Metric::NetworkReceived => "network_received",
        Metric::NetworkSent => "network_sent",
        Metric::Boots => "boots",
        Metric::UncleanBoots => "boots_unclean",
        Metric::AgentCrashes => "agent_crashes",
        Metric::AppExits => "apps_exits",
    }
}

/// All columns of newest values, in the order of the metrics.
fn columns() -> String {
    let columns: Vec<&str> = Metric::ALL.iter().map(|metric| column(*metric)).collect();
    columns.join(", ")
}

fn read_latest(row: &AnyRow, doing: &'static str) -> Result<LatestMetrics, StoreError> {
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    let mut readings = Readings::default();
    for metric in Metric::ALL {
        readings.set(*metric, row.try_get(column(*metric)).map_err(cannot(doing))?);
    }
    Ok(LatestMetrics { time: time(number("time")?), dropped: from_sql(number("dropped")?), readings })
}
