//! Answers with the time series of one device. What is not condensed yet is condensed for the answer, so that it never ends before the present.

use protocol_types::{
    EndpointName, UnixSeconds,
    metrics::{Metric, MetricStep},
};
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use super::{
    FINE_S, HOUR_S, LONGEST_AWAY_S, LatestMetrics, chunk, columns,
    points::{Point, Summary, begin, condensed},
    read_latest,
};
use crate::{
    AccountScope, StoreError,
    error::cannot,
    numbers::{from_sql, to_sql},
};

/// No piece of a time series spans more than this, in seconds.
pub(super) const LONGEST_CHUNK_S: u64 = LONGEST_AWAY_S;

/// Which part of time series is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricRange {
    /// Of this metric; of all without.
    pub metric: Option<Metric>,
    /// For how long each point stands.
    pub step: MetricStep,
    /// From this time on; from the beginning of the point that it lies in.
    pub from: UnixSeconds,
    /// Before this time.
    pub until: UnixSeconds,
}

/// What one metric did in the time of one point. Values are in steps of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricPoint {
    /// When the time begins.
    pub time: UnixSeconds,
    /// Which metric.
    pub metric: Metric,
    /// How many samples it stands for.
    pub count: u32,
    /// Their mean.
    pub mean: i64,
    /// The least of them.
    pub least: i64,
    /// The most.
    pub most: i64,
    /// The last.
    pub last: i64,
}

/// A part of time series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricSeries {
    /// The points, by time and then by metric.
    pub points: Vec<MetricPoint>,
    /// Where the range goes on, if it does.
    pub next: Option<UnixSeconds>,
}

impl AccountScope {
    /// What a device said last; none if it never said anything.
    pub async fn latest_metrics(&self, endpoint: &EndpointName) -> Result<Option<LatestMetrics>, StoreError> {
        let doing = "read what a device measured last";
        let sql =
            format!("SELECT time, dropped, {} FROM device_metrics WHERE account = $1 AND endpoint = $2", columns());
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(endpoint.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        row.as_ref().map(|row| read_latest(row, doing)).transpose()
    }

    /// The points of a range at `limit` times at most, the oldest first.
    pub async fn metric_points(
        &self,
        endpoint: &EndpointName,
        range: &MetricRange,
        limit: usize,
    ) -> Result<MetricSeries, StoreError> {
        let MetricRange { metric, step, .. } = *range;
        let from = begin(range.from.0, step.seconds());
        let doing = "read a time series";
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let row =
            sqlx::query("SELECT hours_until, days_until FROM device_metrics WHERE account = $1 AND endpoint = $2")
                .bind(self.id())
                .bind(endpoint.as_str())
                .fetch_optional(&mut *connection)
                .await
                .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(MetricSeries::default()) };
        let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        let (hours_until, days_until) = (number("hours_until")?, number("days_until")?);
        // Each time is answered from the coarsest series that has it, and is fine enough.
        let parts = match step {
            MetricStep::Sample => vec![(0, 0, u64::MAX)],
            MetricStep::FiveMinutes => vec![(FINE_S, 0, hours_until), (0, hours_until, u64::MAX)],
            MetricStep::Hour => {
                let condensed_until = hours_until.max(days_until);
                vec![(HOUR_S, 0, days_until), (FINE_S, days_until, hours_until), (0, condensed_until, u64::MAX)]
            }
        };
        let mut points: Vec<Point> = Vec::new();
        for (stored, begins, ends) in parts {
            let bounds = (from.max(begins), range.until.0.min(ends));
            // A part that is finer than what is asked for has many times as many points.
            let room = limit.saturating_add(1).saturating_sub(points.len());
            let most = if stored == step.seconds() { room } else { usize::MAX };
            let found = self.stored_points(&mut connection, endpoint, (stored, metric), (bounds, most)).await?;
            points.extend(found);
        }
        let points = if step.seconds() == 0 { points } else { condensed(points, step.seconds()) };
        let next = points.get(limit).map(|point| UnixSeconds(point.time));
        let wanted = |other: Metric| metric.is_none_or(|metric| metric == other);
        let shown = points.iter().take(limit).flat_map(|point| {
            let metrics = Metric::ALL.iter().copied().filter(move |metric| wanted(*metric));
            metrics.filter_map(move |metric| Some(shown(point.time, metric, point.get(metric)?)))
        });
        Ok(MetricSeries { points: shown.collect(), next })
    }

    /// The points of a stored series that begin in this time, without those that do not have the metric; reads no more pieces once
    /// there are `most`.
    async fn stored_points(
        &self,
        connection: &mut AnyConnection,
        endpoint: &EndpointName,
        (step, metric): (u64, Option<Metric>),
        ((from, until), most): ((u64, u64), usize),
    ) -> Result<Vec<Point>, StoreError> {
        /// Pieces that are read at a time.
        const AT_ONCE: i64 = 100;
        let doing = "read a time series";
        let mut points = Vec::new();
        let mut first = from.saturating_sub(LONGEST_CHUNK_S);
        while points.len() < most && from < until {
            let rows = sqlx::query(
                "SELECT first, chunk FROM metric_chunks WHERE account = $1 AND endpoint = $2 AND step = $3
                 AND first >= $4 AND first < $5 AND last >= $6 ORDER BY first LIMIT $7",
            )
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(to_sql(step))
            .bind(to_sql(first))
            .bind(to_sql(until))
            .bind(to_sql(from))
            .bind(AT_ONCE)
            .fetch_all(&mut *connection)
            .await
            .map_err(cannot(doing))?;
            let is_last = rows.len() < usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
            for row in rows {
                first = from_sql(row.try_get::<i64, _>("first").map_err(cannot(doing))?).saturating_add(1);
                let bytes: Vec<u8> = row.try_get("chunk").map_err(cannot(doing))?;
                let read = if step == 0 { chunk::read_samples(&bytes)? } else { chunk::read_points(&bytes)? };
                let has_it = |point: &Point| metric.is_none_or(|metric| point.get(metric).is_some());
                points.extend(read.into_iter().filter(|p| (from..until).contains(&p.time) && has_it(p)));
            }
            if is_last {
                break;
            }
        }
        Ok(points)
    }
}

fn shown(time: u64, metric: Metric, summary: Summary) -> MetricPoint {
    MetricPoint {
        time: UnixSeconds(time),
        metric,
        count: summary.count,
        mean: summary.mean(),
        least: summary.least,
        most: summary.most,
        last: summary.last,
    }
}
