//! Claims about time series, on both databases.

use protocol_types::{
    EndpointName, UnixSeconds,
    metrics::{Batch, Metric, MetricStep, Readings, Sample},
};
use sqlx::Row;

use super::{DAY_S, FINE_S, HOUR_S, LONGEST_AWAY_S, MetricPoint, MetricRange, MetricReport, MetricRetention};
use crate::{AccountScope, tests::Database};

/// The beginning of a day.
const DAY: u64 = 1_800_000_000 - 1_800_000_000 % DAY_S;
const KEEP: MetricRetention = MetricRetention { sample_days: 2, fine_days: 14, hour_days: 400 };

fn gate() -> EndpointName {
    "gate-1".parse().unwrap()
}

/// A device that measures its temperature, and reports what it has.
struct Device<'a> {
    db: &'a Database,
    number: u64,
    waiting: Vec<(u64, i64)>,
}

impl<'a> Device<'a> {
    fn new(db: &'a Database) -> Self {
        Self { db, number: 0, waiting: Vec::new() }
    }

    fn measure(&mut self, at: u64, tenths: i64) {
        self.waiting.push((at, tenths));
    }

    fn batch(&self, now: u64) -> Batch {
        let samples = self.waiting.iter().zip(self.number + 1..).map(|((at, tenths), number)| Sample {
            number,
            age_s: now - at,
            readings: Readings::default().with(Metric::Temperature, *tenths).with(Metric::Boots, 3),
        });
        Batch { epoch: 9, dropped: 4, samples: samples.collect() }
    }

    async fn send(&self, batch: Batch, now: u64) {
        let report = MetricReport { account: "one".parse().unwrap(), endpoint: gate(), batch, least_gap_s: 1 };
        self.db.store.service_wide().record_metrics(&[report], UnixSeconds(now)).await.unwrap();
    }

    async fn report(&mut self, now: u64) {
        self.send(self.batch(now), now).await;
        self.number += self.waiting.len() as u64;
        self.waiting.clear();
    }

    async fn condense(&self, now: u64) -> usize {
        self.db.store.service_wide().condense_metrics(10, &KEEP, UnixSeconds(now)).await.unwrap()
    }
}

async fn series(account: &AccountScope, step: MetricStep, from: u64, until: u64) -> Vec<MetricPoint> {
    let found = account.metric_points(&gate(), &range(step, from, until), 100_000).await.unwrap();
    assert_eq!(found.next, None);
    found.points
}

fn range(step: MetricStep, from: u64, until: u64) -> MetricRange {
    MetricRange { metric: Some(Metric::Temperature), step, from: UnixSeconds(from), until: UnixSeconds(until) }
}

async fn all(account: &AccountScope, step: MetricStep) -> Vec<MetricPoint> {
    series(account, step, 0, u64::MAX).await
}

/// Pieces and their bytes, for each step.
async fn pieces(db: &Database, step: u64) -> (i64, i64) {
    let mut tx = db.store.write().await.unwrap();
    let sql = "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(LENGTH(chunk)), 0) AS BIGINT) AS bytes FROM metric_chunks WHERE step = $1";
    let row = sqlx::query(sql).bind(i64::try_from(step).unwrap()).fetch_one(tx.sql()).await.unwrap();
    (row.get("n"), row.get("bytes"))
}

#[tokio::test]
async fn a_report_that_comes_twice_is_kept_once_and_the_newest_values_are_there_at_once() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    assert_eq!(one.latest_metrics(&gate()).await.unwrap(), None);
    let mut device = Device::new(&db);
    for minute in 0..5 {
        device.measure(DAY + minute * 60, 400 + i64::try_from(minute).unwrap());
    }
    let now = DAY + 250;
    let again = device.batch(now + 70);
    device.report(now).await;
    device.send(again, now + 70).await;
    let points = all(&one, MetricStep::Sample).await;
    let times: Vec<u64> = points.iter().map(|point| point.time.0 - DAY).collect();
    assert_eq!(times, [0, 60, 120, 180, 240]);
    let latest = one.latest_metrics(&gate()).await.unwrap().unwrap();
    assert_eq!((latest.time.0, latest.dropped), (DAY + 240, 4));
    assert_eq!((latest.readings.get(Metric::Temperature), latest.readings.get(Metric::CpuLoad)), (Some(404), None));
    let two = db.account("two").await;
    assert!(all(&two, MetricStep::Sample).await.is_empty() && two.latest_metrics(&gate()).await.unwrap().is_none());
}

#[tokio::test]
async fn points_say_the_same_before_and_after_they_are_condensed_and_outlive_the_samples() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    let mut device = Device::new(&db);
    let mut expected = Vec::new();
    // Two days, a sample a minute, a report in twelve.
    for minute in 0..2880_u64 {
        let at = DAY + minute * 60;
        let tenths = 400 + i64::try_from((minute * 37) % 101).unwrap();
        device.measure(at, tenths);
        expected.push((at, tenths));
        if minute % 12 == 11 {
            device.report(at).await;
        }
    }
    let before = (all(&one, MetricStep::FiveMinutes).await, all(&one, MetricStep::Hour).await);
    assert_eq!((before.0.len(), before.1.len(), all(&one, MetricStep::Sample).await.len()), (576, 48, 2880));
    let hour = before.1[5];
    let of_hour: Vec<i64> = expected[300..360].iter().map(|(_, tenths)| *tenths).collect();
    assert_eq!((hour.time.0, hour.count), (DAY + 5 * HOUR_S, 60));
    let (least, most) = (*of_hour.iter().min().unwrap(), *of_hour.iter().max().unwrap());
    assert_eq!((hour.least, hour.most, hour.last), (least, most, of_hour[59]));

    assert_eq!(device.condense(DAY + 2 * DAY_S + 600).await, 1);
    assert_eq!(device.condense(DAY + 2 * DAY_S + 600).await, 0, "it is done once");
    let close = |a: &[MetricPoint], b: &[MetricPoint]| {
        let same = |(a, b): (&MetricPoint, &MetricPoint)| {
            // Means of means are rounded twice.
            (a.mean - b.mean).abs() <= 1 && MetricPoint { mean: b.mean, ..*a } == *b
        };
        a.len() == b.len() && a.iter().zip(b).all(same)
    };
    let after = (all(&one, MetricStep::FiveMinutes).await, all(&one, MetricStep::Hour).await);
    assert!(close(&after.0, &before.0) && close(&after.1, &before.1));
    // The last hour is open, and the last day too.
    assert_eq!((pieces(&db, FINE_S).await.0, pieces(&db, HOUR_S).await.0), (47, 1));

    // The device goes away. Its last hour and its last day are closed when nothing of them can come any more, then it ages.
    let away = DAY + 2 * DAY_S + LONGEST_AWAY_S;
    for now in [away + 1, away + DAY_S, away + 5 * DAY_S] {
        device.condense(now).await;
    }
    assert_eq!((pieces(&db, 0).await.0, pieces(&db, FINE_S).await.0, pieces(&db, HOUR_S).await.0), (0, 48, 2));
    assert!(close(&all(&one, MetricStep::Hour).await, &before.1) && all(&one, MetricStep::Sample).await.is_empty());
    for day in 20..22 {
        device.condense(DAY + day * DAY_S).await;
    }
    assert_eq!((pieces(&db, FINE_S).await.0, all(&one, MetricStep::Hour).await.len()), (0, 48));
    for day in [410, 411, 412] {
        device.condense(DAY + day * DAY_S).await;
    }
    assert_eq!(
        (pieces(&db, HOUR_S).await.0, device.condense(DAY + 1000 * DAY_S).await),
        (0, 0),
        "nothing is due any more"
    );
}

#[tokio::test]
async fn a_device_that_was_away_brings_its_hours_with_it() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    let mut device = Device::new(&db);
    device.measure(DAY + 10, 500);
    device.report(DAY + 10).await;
    for minute in 1..20 * 60_u64 {
        device.measure(DAY + 10 + minute * 60, 500);
    }
    // The service looks after it meanwhile.
    device.condense(DAY + 15 * HOUR_S).await;
    device.report(DAY + 20 * HOUR_S).await;
    assert_eq!(device.condense(DAY + 21 * HOUR_S).await, 1);
    let hours = all(&one, MetricStep::Hour).await;
    assert_eq!((hours.len(), hours.iter().map(|hour| hour.count).sum::<u32>()), (20, 1200));
    assert_eq!(pieces(&db, FINE_S).await.0, 19);
}

#[tokio::test]
async fn a_range_ends_where_it_is_asked_to_and_gives_no_more_points_than_were_asked_for() {
    let db = Database::new().await;
    let one = crate::tests::fleet(&db).await;
    let mut device = Device::new(&db);
    for minute in 0..600_u64 {
        device.measure(DAY + minute * 60, 400);
        if minute % 5 == 4 {
            device.report(DAY + minute * 60).await;
        }
    }
    device.condense(DAY + DAY_S).await;
    let found = series(&one, MetricStep::Sample, DAY + 120, DAY + 300).await;
    assert_eq!(found.iter().map(|point| point.time.0 - DAY).collect::<Vec<_>>(), [120, 180, 240]);
    let found = series(&one, MetricStep::FiveMinutes, DAY + HOUR_S, DAY + 2 * HOUR_S).await;
    assert_eq!((found.len(), found[0].time.0 - DAY, found[0].count), (12, HOUR_S, 5));
    for (step, whole) in [(MetricStep::Sample, 600), (MetricStep::FiveMinutes, 120), (MetricStep::Hour, 10)] {
        for limit in [0, 1, 7, 1000] {
            let mut asked = range(step, DAY, DAY + DAY_S);
            let found = one.metric_points(&gate(), &asked, limit).await.unwrap();
            assert_eq!((found.points.len(), found.next.is_some()), (whole.min(limit), limit < whole), "{step:?}");
            if let Some(next) = found.next {
                asked.from = next;
                let rest = one.metric_points(&gate(), &asked, 1000).await.unwrap();
                assert_eq!(found.points.len() + rest.points.len(), whole, "{step:?} {limit}");
            }
        }
    }
    let hours = range(MetricStep::Hour, DAY, DAY + DAY_S);
    let never = MetricRange { metric: Some(Metric::CpuLoad), ..hours };
    assert!(one.metric_points(&gate(), &never, 10).await.unwrap().points.is_empty(), "what was never measured");
    let every = one.metric_points(&gate(), &MetricRange { metric: None, ..hours }, 1).await.unwrap();
    let metrics: Vec<Metric> = every.points.iter().map(|point| point.metric).collect();
    assert_eq!(metrics, [Metric::Temperature, Metric::Boots]);
}

/// What `docs/guides/monitoring.md` says of the disk.
#[tokio::test]
async fn a_device_day_at_the_default_pace_takes_the_bytes_that_the_guide_names() {
    let db = Database::new().await;
    crate::tests::fleet(&db).await;
    let (mut number, mut samples) = (0, Vec::new());
    for minute in 0..1440_u64 {
        number += 1;
        let noise =
            |most: u64, by: u64| i64::try_from(minute.wrapping_mul(by).wrapping_mul(2_654_435_761) % most).unwrap();
        let readings = Readings::default()
            .with(Metric::CpuLoad, 80 + noise(120, 3))
            .with(Metric::MemoryUsed, 430 + noise(9, 5))
            .with(Metric::StorageUsed, 205)
            .with(Metric::Temperature, 480 + noise(12, 7))
            .with(Metric::NetworkReceived, 600 + noise(2000, 11))
            .with(Metric::NetworkSent, 300 + noise(900, 13))
            .with(Metric::Boots, 12)
            .with(Metric::UncleanBoots, 1)
            .with(Metric::AgentCrashes, 0)
            .with(Metric::AppExits, 2);
        samples.push(Sample { number, age_s: (4 - minute % 5) * 60, readings });
        if minute % 5 == 4 {
            let batch = Batch { epoch: 9, dropped: 0, samples: std::mem::take(&mut samples) };
            let report = MetricReport { account: "one".parse().unwrap(), endpoint: gate(), batch, least_gap_s: 30 };
            let now = UnixSeconds(DAY + minute * 60);
            db.store.service_wide().record_metrics(&[report], now).await.unwrap();
        }
    }
    let sample = Sample { number: number + 1, age_s: 0, readings: Readings::default().with(Metric::Boots, 12) };
    let batch = Batch { epoch: 9, dropped: 0, samples: vec![sample] };
    let report = MetricReport { account: "one".parse().unwrap(), endpoint: gate(), batch, least_gap_s: 30 };
    let next_day = UnixSeconds(DAY + DAY_S + 60);
    db.store.service_wide().record_metrics(&[report], next_day).await.unwrap();
    db.store.service_wide().condense_metrics(10, &KEEP, UnixSeconds(next_day.0 + 600)).await.unwrap();
    let (raw, fine, hours) = (pieces(&db, 0).await, pieces(&db, FINE_S).await, pieces(&db, HOUR_S).await);
    assert_eq!((raw.0, fine.0, hours.0), (289, 24, 1));
    assert!(
        raw.1 <= 31_000 && fine.1 <= 15_000 && hours.1 <= 1_300,
        "samples {raw:?}, five minutes {fine:?}, hours {hours:?}"
    );
}
