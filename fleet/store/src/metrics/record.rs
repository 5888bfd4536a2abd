//! Takes what devices report, many in one transaction: for each a row that is added and a row that is changed, however much was measured.

use protocol_types::{
    AccountName, EndpointName, UnixSeconds,
    metrics::{Batch, Metric, Readings},
};
use sqlx::{AssertSqlSafe, Row};

use super::{DAY_S, HOUR_S, LONGEST_AWAY_S, chunk, columns, points::begin};
use crate::{
    AccountScope, ServiceWide, StoreError,
    error::cannot,
    numbers::{from_sql, to_sql},
    transaction::Transaction,
};

/// A device whose newest sample lies further ahead than this, in seconds, was recorded while the clock of the service was wrong.
const CLOCK_S: u64 = 5 * 60;
/// The work that an hour brings is spread over this time, in seconds.
const SPREAD_S: u64 = 10 * 60;

/// What a device reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricReport {
    /// Its account.
    pub account: AccountName,
    /// The device.
    pub endpoint: EndpointName,
    /// What it sent.
    pub batch: Batch,
    /// Samples that follow each other faster than this, in seconds, are not kept: nobody fills the disk.
    pub least_gap_s: u64,
}

/// How a device stands before a report.
#[derive(Clone, Copy, Debug)]
struct Before {
    epoch: u64,
    number: u64,
    time: u64,
    hours_until: u64,
    days_until: u64,
    due: Option<u64>,
}

impl ServiceWide {
    /// Keeps what devices report. Samples that are known already, that come too fast or too late, are passed over; so are devices that are gone.
    pub async fn record_metrics(&self, reports: &[MetricReport], now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        for report in reports {
            self.store.account(&report.account).record_report_of_metrics(&mut tx, report, now).await?;
        }
        tx.commit().await
    }
}

impl AccountScope {
    async fn record_report_of_metrics(
        &self,
        tx: &mut Transaction,
        report: &MetricReport,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "look for what a device reported before";
        let row = sqlx::query(
            "SELECT m.epoch, m.number, m.time, m.hours_until, m.days_until, m.due FROM devices d
             LEFT JOIN device_metrics m ON m.account = d.account AND m.endpoint = d.endpoint
             WHERE d.account = $1 AND d.endpoint = $2",
        )
        .bind(self.id())
        .bind(report.endpoint.as_str())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(()) };
        let number = |column| row.try_get::<Option<i64>, _>(column).map(|n| n.map(from_sql)).map_err(cannot(doing));
        let before = match number("epoch")? {
            None => None,
            Some(epoch) => Some(Before {
                epoch,
                number: number("number")?.unwrap_or_default(),
                time: number("time")?.unwrap_or_default(),
                hours_until: number("hours_until")?.unwrap_or_default(),
                days_until: number("days_until")?.unwrap_or_default(),
                due: number("due")?,
            }),
        };
        let samples = fresh(before.as_ref(), report, now);
        let Some((first, last)) = samples.first().zip(samples.last()) else { return Ok(()) };
        sqlx::query(
            "INSERT INTO metric_chunks (account, endpoint, step, first, last, chunk) VALUES ($1, $2, 0, $3, $4, $5)
             ON CONFLICT (account, endpoint, step, first) DO UPDATE SET last = excluded.last, chunk = excluded.chunk",
        )
        .bind(self.id())
        .bind(report.endpoint.as_str())
        .bind(to_sql(first.0))
        .bind(to_sql(last.0))
        .bind(chunk::write_samples(&samples))
        .execute(tx.sql())
        .await
        .map_err(cannot("keep samples"))?;
        let state = after(before, &report.batch, (first.0, last.0), now);
        self.keep_latest(tx, report, (&state, &newest(&samples))).await
    }

    async fn keep_latest(
        &self,
        tx: &mut Transaction,
        report: &MetricReport,
        (state, readings): (&Before, &Readings),
    ) -> Result<(), StoreError> {
        let names = columns();
        let places: Vec<String> = (0..Metric::COUNT).map(|place| format!("${}", place + 10)).collect();
        let set: Vec<String> = Metric::ALL
            .iter()
            .map(|metric| super::column(*metric))
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        let sql = format!(
            "INSERT INTO device_metrics
                 (account, endpoint, epoch, number, time, dropped, hours_until, days_until, due, {names})
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, {})
             ON CONFLICT (account, endpoint) DO UPDATE SET epoch = excluded.epoch, number = excluded.number,
                 time = excluded.time, dropped = excluded.dropped, hours_until = excluded.hours_until,
                 days_until = excluded.days_until, due = excluded.due, {}",
            places.join(", "),
            set.join(", ")
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(report.endpoint.as_str())
            .bind(to_sql(state.epoch))
            .bind(to_sql(state.number))
            .bind(to_sql(state.time))
            .bind(to_sql(report.batch.dropped))
            .bind(to_sql(state.hours_until))
            .bind(to_sql(state.days_until))
            .bind(state.due.map(to_sql));
        let query = Metric::ALL.iter().fold(query, |query, metric| query.bind(readings.get(*metric)));
        query.execute(tx.sql()).await.map_err(cannot("keep what a device measured last"))?;
        Ok(())
    }
}

/// The samples of a report that are news, each with the time at which it was measured.
fn fresh(before: Option<&Before>, report: &MetricReport, now: UnixSeconds) -> Vec<(u64, Readings)> {
    let before = before.filter(|before| before.time <= now.0.saturating_add(CLOCK_S));
    let known = before.filter(|before| before.epoch == u64::from(report.batch.epoch)).map_or(0, |before| before.number);
    let mut earliest = before.map_or(0, |before| before.time.saturating_add(report.least_gap_s.max(1)));
    earliest = earliest.max(now.0.saturating_sub(LONGEST_AWAY_S));
    let mut samples = Vec::new();
    for sample in report.batch.samples.iter().filter(|sample| sample.number > known && !sample.readings.is_empty()) {
        let time = now.0.saturating_sub(sample.age_s);
        if time >= earliest {
            samples.push((time, sample.readings));
            earliest = time.saturating_add(report.least_gap_s.max(1));
        }
    }
    samples
}

/// The newest value of each metric that was measured at all in a report.
fn newest(samples: &[(u64, Readings)]) -> Readings {
    let mut newest = Readings::default();
    for (metric, steps) in samples.iter().flat_map(|(_, readings)| readings.iter()) {
        newest.set(metric, Some(steps));
    }
    newest
}

fn after(before: Option<Before>, batch: &Batch, (first, last): (u64, u64), now: UnixSeconds) -> Before {
    // What was recorded while the clock of the service was wrong is condensed no more; it goes with its age.
    let before = before.filter(|before| before.time <= last);
    let (hours_until, days_until) =
        before.map_or((begin(first, HOUR_S), begin(first, DAY_S)), |before| (before.hours_until, before.days_until));
    let has_complete_hour = begin(last, HOUR_S) > hours_until;
    let wanted = if has_complete_hour {
        now.0.saturating_add(u64::from(batch.epoch) % SPREAD_S)
    } else {
        hours_until.saturating_add(HOUR_S + LONGEST_AWAY_S)
    };
    // Not changed with each report: the index would be written as often.
    let due = before.and_then(|before| before.due).filter(|due| *due <= wanted);
    let number = batch.samples.last().map_or(0, |sample| sample.number);
    Before { epoch: batch.epoch.into(), number, time: last, hours_until, days_until, due: Some(due.unwrap_or(wanted)) }
}

#[cfg(test)]
mod tests {
    use protocol_types::metrics::Sample;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn report(samples: &[(u64, u64)]) -> MetricReport {
        let readings = Readings::default().with(Metric::CpuLoad, 500);
        let samples =
            samples.iter().map(|(number, age_s)| Sample { number: *number, age_s: *age_s, readings }).collect();
        MetricReport {
            account: "one".parse().unwrap(),
            endpoint: "gate-1".parse().unwrap(),
            batch: Batch { epoch: 7, dropped: 0, samples },
            least_gap_s: 30,
        }
    }

    fn times(before: Option<Before>, samples: &[(u64, u64)]) -> Vec<u64> {
        fresh(before.as_ref(), &report(samples), NOW).into_iter().map(|(time, _)| NOW.0 - time).collect()
    }

    fn before(number: u64, age_s: u64) -> Before {
        let time = NOW.0 - age_s;
        Before { epoch: 7, number, time, hours_until: begin(time, HOUR_S), days_until: begin(time, DAY_S), due: None }
    }

    #[test]
    fn a_sample_is_kept_once_and_in_order_however_often_it_comes() {
        assert_eq!(times(None, &[(1, 120), (2, 60), (3, 0)]), [120, 60, 0]);
        assert_eq!(times(Some(before(2, 60)), &[(1, 120), (2, 59), (3, 0)]), [0], "two of them came before");
        let other_run = Before { epoch: 8, ..before(900, 60) };
        assert_eq!(times(Some(other_run), &[(1, 20), (2, 0)]), [20], "the next one comes too fast");
        assert_eq!(times(Some(other_run), &[(1, 400)]), [0; 0], "before what is known");
        assert_eq!(times(None, &[(1, LONGEST_AWAY_S + 1), (2, LONGEST_AWAY_S)]), [LONGEST_AWAY_S]);
        let from_the_future = Before { time: NOW.0 + 86_400, ..before(1, 0) };
        assert_eq!(times(Some(Before { epoch: 8, ..from_the_future }), &[(1, 0)]), [0], "the clock was wrong once");
    }

    #[test]
    fn work_is_due_once_an_hour_is_complete_or_the_device_is_away_for_good_and_changes_seldom() {
        let hour = begin(NOW.0, HOUR_S);
        let first = after(None, &report(&[(1, 0)]).batch, (hour + 60, hour + 60), UnixSeconds(hour + 60));
        assert_eq!((first.hours_until, first.due), (hour, Some(hour + HOUR_S + LONGEST_AWAY_S)));
        let same = after(Some(first), &report(&[(2, 0)]).batch, (hour + 600, hour + 600), UnixSeconds(hour + 600));
        assert_eq!(same.due, first.due);
        let next_hour = hour + HOUR_S + 60;
        let next = after(Some(same), &report(&[(3, 0)]).batch, (next_hour, next_hour), UnixSeconds(next_hour));
        assert_eq!((next.hours_until, next.due), (hour, Some(next_hour + 7)));
        let later =
            after(Some(next), &report(&[(4, 0)]).batch, (next_hour + 5, next_hour + 5), UnixSeconds(next_hour + 5));
        assert_eq!(later.due, next.due, "a device that reports often is not put off");
    }
}
