//! Makes coarser points in the background, a device at a time and a bounded number at once, and forgets what is old. Written so that it may be cut off
//! anywhere: what was not committed is done again from the samples.

use protocol_types::{EndpointName, UnixSeconds};
use sqlx::Row;

use super::{
    DAY_S, FINE_S, HOUR_S, LONGEST_AWAY_S, chunk,
    points::{Point, begin, condensed, grouped},
};
use crate::{
    AccountScope, ServiceWide, StoreError,
    error::cannot,
    numbers::{from_sql, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// How long time series are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricRetention {
    /// Days of samples; at least two, so that what arrives late can still be condensed.
    pub sample_days: u64,
    /// Days of points of five minutes.
    pub fine_days: u64,
    /// Days of points of an hour.
    pub hour_days: u64,
}

/// A device whose time series are due.
struct Due {
    endpoint: EndpointName,
    time: u64,
    hours_until: u64,
    days_until: u64,
}

/// The hour or the day of a device's newest sample.
#[derive(Clone, Copy, Debug)]
struct Closing {
    begin: u64,
    length: u64,
    /// From then on no more samples of it are taken.
    over: u64,
}

impl Closing {
    const fn of(time: u64, length: u64) -> Self {
        let begin = begin(time, length);
        Self { begin, length, over: begin.saturating_add(length).saturating_add(LONGEST_AWAY_S) }
    }

    /// Until when everything is there: to its beginning, since there is a sample of it, or to its end.
    const fn end(self, now: UnixSeconds) -> u64 {
        if now.0 >= self.over { self.begin.saturating_add(self.length) } else { self.begin }
    }
}

impl ServiceWide {
    /// Condenses the time series of at most `most` devices that are due, the longest overdue first, in one transaction. Answers how many there
    /// were.
    pub async fn condense_metrics(
        &self,
        most: u32,
        retention: &MetricRetention,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        let doing = "look for time series to condense";
        const DUE: &str = "SELECT account, endpoint, time, hours_until, days_until FROM device_metrics
            WHERE due IS NOT NULL AND due <= $1 ORDER BY due LIMIT $2";
        let Some((mut tx, rows)) = self.due((DUE, doing), most, now).await? else { return Ok(0) };
        for row in &rows {
            let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
            let account = self.store.account(&formed(row, doing, ("device_metrics", "account"))?);
            let device = Due {
                endpoint: formed(row, doing, ("device_metrics", "endpoint"))?,
                time: number("time")?,
                hours_until: number("hours_until")?,
                days_until: number("days_until")?,
            };
            account.condense_device(&mut tx, &device, (retention, now)).await?;
        }
        tx.commit().await?;
        Ok(rows.len())
    }
}

impl AccountScope {
    async fn condense_device(
        &self,
        tx: &mut Transaction,
        device: &Due,
        (retention, now): (&MetricRetention, UnixSeconds),
    ) -> Result<(), StoreError> {
        let hour = Closing::of(device.time, HOUR_S);
        let hours_until = hour.end(now).max(device.hours_until);
        if hours_until > device.hours_until {
            let samples = self.chunks(tx, &device.endpoint, 0, (device.hours_until, hours_until)).await?;
            self.keep_points(tx, &device.endpoint, condensed(samples, FINE_S), (FINE_S, HOUR_S)).await?;
        }
        let day = Closing::of(device.time, DAY_S);
        let days_until = day.end(now).max(device.days_until);
        let is_over = now.0 >= day.over;
        let mut left = true;
        if days_until > device.days_until || is_over {
            let fine = self.chunks(tx, &device.endpoint, FINE_S, (device.days_until, days_until)).await?;
            self.keep_points(tx, &device.endpoint, condensed(fine, HOUR_S), (HOUR_S, DAY_S)).await?;
            left = self.forget_chunks(tx, &device.endpoint, (retention, now)).await?;
        }
        let next = [hour.over, day.over].into_iter().find(|over| *over > now.0);
        let due = next.or_else(|| left.then(|| now.0.saturating_add(DAY_S)));
        sqlx::query(
            "UPDATE device_metrics SET hours_until = $3, days_until = $4, due = $5
             WHERE account = $1 AND endpoint = $2",
        )
        .bind(self.id())
        .bind(device.endpoint.as_str())
        .bind(to_sql(hours_until))
        .bind(to_sql(days_until))
        .bind(due.map(to_sql))
        .execute(tx.sql())
        .await
        .map_err(cannot("note how far time series are condensed"))?;
        Ok(())
    }

    /// The points of a step that begin in this time, the first bound included.
    async fn chunks(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        step: u64,
        (from, until): (u64, u64),
    ) -> Result<Vec<Point>, StoreError> {
        let doing = "read time series to condense";
        let rows = sqlx::query(
            "SELECT chunk FROM metric_chunks WHERE account = $1 AND endpoint = $2 AND step = $3
             AND first >= $4 AND first < $5 AND last >= $6 ORDER BY first",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(step))
        .bind(to_sql(from.saturating_sub(super::series::LONGEST_CHUNK_S)))
        .bind(to_sql(until))
        .bind(to_sql(from))
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let mut points = Vec::new();
        for row in rows {
            let bytes: Vec<u8> = row.try_get("chunk").map_err(cannot(doing))?;
            let read = if step == 0 { chunk::read_samples(&bytes)? } else { chunk::read_points(&bytes)? };
            points.extend(read.into_iter().filter(|point| (from..until).contains(&point.time)));
        }
        Ok(points)
    }

    /// Writes points of `step` seconds, those of `length` seconds together.
    async fn keep_points(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        points: Vec<Point>,
        (step, length): (u64, u64),
    ) -> Result<(), StoreError> {
        for group in grouped(points, length) {
            let Some((first, last)) = group.first().zip(group.last()) else { continue };
            sqlx::query(
                "INSERT INTO metric_chunks (account, endpoint, step, first, last, chunk) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (account, endpoint, step, first) DO UPDATE SET last = excluded.last, chunk = excluded.chunk",
            )
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(to_sql(step))
            .bind(to_sql(first.time))
            .bind(to_sql(last.time))
            .bind(chunk::write_points(&group))
            .execute(tx.sql())
            .await
            .map_err(cannot("keep points of time series"))?;
        }
        Ok(())
    }

    /// Forgets what is older than it is kept. Whether anything is left.
    async fn forget_chunks(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (retention, now): (&MetricRetention, UnixSeconds),
    ) -> Result<bool, StoreError> {
        let doing = "forget old time series";
        let steps = [(0, retention.sample_days.max(2)), (FINE_S, retention.fine_days), (HOUR_S, retention.hour_days)];
        for (step, days) in steps {
            sqlx::query("DELETE FROM metric_chunks WHERE account = $1 AND endpoint = $2 AND step = $3 AND last < $4")
                .bind(self.id())
                .bind(endpoint.as_str())
                .bind(to_sql(step))
                .bind(to_sql(now.0.saturating_sub(days.saturating_mul(DAY_S))))
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
        }
        let left = sqlx::query("SELECT step FROM metric_chunks WHERE account = $1 AND endpoint = $2 LIMIT 1")
            .bind(self.id())
            .bind(endpoint.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        Ok(left.is_some())
    }
}
