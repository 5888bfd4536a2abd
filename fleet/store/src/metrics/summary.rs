//! Answers for many devices at once, by the newest values alone: one pass over a row a device, and no time series.

use protocol_types::{UnixSeconds, metrics::Metric};
use sqlx::{AssertSqlSafe, Row};

use super::column;
use crate::{
    AccountScope, CountBy, Filter, StoreError,
    devices::{bound, counts::Grouping},
    error::cannot,
    filter::Place,
    numbers::{from_sql, to_sql},
};

/// What is asked about many devices.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryQuery {
    /// Of which metric.
    pub metric: Metric,
    /// Of which devices.
    pub filter: Filter,
    /// Apart for each value of this field; all together without.
    pub by: Option<CountBy>,
    /// Values that are older than this, in seconds, do not count.
    pub fresh_s: u64,
}

/// The newest values of some devices. Values are in steps of the metric.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricSummary {
    /// The value of the field; none for devices without one, and where values are not told apart.
    pub value: Option<String>,
    /// How many devices have a value of the metric.
    pub devices: u64,
    /// The mean.
    pub mean: f64,
    /// The least.
    pub least: i64,
    /// The most.
    pub most: i64,
    /// Half of the devices have no more than this.
    pub median: i64,
    /// Nine of ten have no more than this.
    pub p90: i64,
    /// 99 of a hundred have no more than this.
    pub p99: i64,
}

impl AccountScope {
    /// The newest values of a metric, for each value of a field; the most frequent ones first, at most `limit`.
    pub async fn summarise_metric(
        &self,
        query: &SummaryQuery,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<MetricSummary>, StoreError> {
        let doing = "summarise a metric";
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let filter = self.resolved(&mut connection, &query.filter).await?;
        let all = || Some(Grouping { value: "NULL".to_owned(), join: String::new(), only: "" });
        let grouping = query.by.as_ref().map_or_else(all, |by| by.grouping(now));
        let Some(Grouping { value, join, only }) = grouping else { return Ok(Vec::new()) };
        let clause = filter.clause(Place { report: "r", first: 5, now });
        let column = column(query.metric);
        // The nearest rank: the least value that so many per cent of the devices do not exceed.
        let rank = |percent: u32| format!("MIN(CASE WHEN q.place * 100 >= q.devices * {percent} THEN q.steps END)");
        let sql = format!(
            "SELECT q.value, MAX(q.devices) AS devices, MIN(q.steps) AS least, MAX(q.steps) AS most,
                 SUM(CAST(q.steps AS DOUBLE PRECISION)) AS total,
                 {} AS median, {} AS p90, {} AS p99
             FROM (SELECT y.value, y.steps, COUNT(*) OVER (PARTITION BY y.value) AS devices,
                       ROW_NUMBER() OVER (PARTITION BY y.value ORDER BY y.steps) AS place
                   FROM (SELECT CAST({value} AS TEXT) AS value, m.{column} AS steps FROM devices d
                         JOIN device_metrics m ON m.account = d.account AND m.endpoint = d.endpoint
                         LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint {join}
                         WHERE d.account = $1 AND $2 = $2 AND m.{column} IS NOT NULL AND m.time >= $3 AND {}) y) q
             GROUP BY q.value ORDER BY 2 DESC, 1 LIMIT $4",
            rank(50),
            rank(90),
            rank(99),
            clause.sql
        );
        let asked = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(only)
            .bind(to_sql(now.0.saturating_sub(query.fresh_s)))
            .bind(i64::from(limit));
        let rows = bound(asked, clause.binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
                let devices = from_sql(number("devices")?);
                let total: f64 = row.try_get("total").map_err(cannot(doing))?;
                Ok(MetricSummary {
                    value: row.try_get("value").map_err(cannot(doing))?,
                    devices,
                    mean: total / f64::from(u32::try_from(devices).unwrap_or(u32::MAX).max(1)),
                    least: number("least")?,
                    most: number("most")?,
                    median: number("median")?,
                    p90: number("p90")?,
                    p99: number("p99")?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::{
        EndpointName,
        metrics::{Batch, Readings, Sample},
    };

    use super::*;
    use crate::{
        MetricReport,
        tests::{Database, NOW},
    };

    async fn insert(db: &Database, count: u32) {
        let mut tx = db.store.write().await.unwrap();
        for number in 1..=count {
            sqlx::query("INSERT INTO devices (account, endpoint, connected, created) VALUES ('one', $1, 1, 0)")
                .bind(format!("d-{number}"))
                .execute(tx.sql())
                .await
                .unwrap();
            if number % 4 == 0 {
                sqlx::query("INSERT INTO device_tags (account, endpoint, tag) VALUES ('one', $1, 'lab')")
                    .bind(format!("d-{number}"))
                    .execute(tx.sql())
                    .await
                    .unwrap();
            }
        }
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_summary_tells_groups_apart_and_leaves_old_values_out() {
        let db = Database::new().await;
        let one = db.account("one").await;
        insert(&db, 201).await;
        let report = |number: i64, age_s| {
            let endpoint: EndpointName = format!("d-{number}").parse().unwrap();
            let sample = Sample { number: 1, age_s, readings: Readings::default().with(Metric::Temperature, number) };
            let batch = Batch { epoch: 1, dropped: 0, samples: vec![sample] };
            MetricReport { account: "one".parse().unwrap(), endpoint, batch, least_gap_s: 1 }
        };
        let mut reports: Vec<MetricReport> = (1..=200).map(|number| report(number, 0)).collect();
        reports.push(report(201, 4000));
        db.store.service_wide().record_metrics(&reports, NOW).await.unwrap();
        let asked = |filter: &str, by: Option<&str>, fresh_s| SummaryQuery {
            metric: Metric::Temperature,
            filter: filter.parse().unwrap(),
            by: by.map(|by| by.parse().unwrap()),
            fresh_s,
        };
        let all = one.summarise_metric(&asked("", None, 3600), NOW, 10).await.unwrap();
        let of = |value: Option<&str>, devices, mean, (least, median, p90, p99, most)| MetricSummary {
            value: value.map(str::to_owned),
            devices,
            mean,
            least,
            most,
            median,
            p90,
            p99,
        };
        assert_eq!(all, [of(None, 200, 100.5, (1, 100, 180, 198, 200))]);
        let older = one.summarise_metric(&asked("", None, 5000), NOW, 10).await.unwrap();
        assert_eq!((older[0].devices, older[0].most), (201, 201));
        let tags = one.summarise_metric(&asked("", Some("tag"), 3600), NOW, 10).await.unwrap();
        let lab = of(Some("lab"), 50, 102.0, (4, 100, 180, 200, 200));
        assert_eq!((tags.len(), tags[0].devices, &tags[1]), (2, 150, &lab));
        let some = one.summarise_metric(&asked("name in (\"d-7\", \"d-8\")", None, 3600), NOW, 10).await.unwrap();
        assert_eq!(some, [of(None, 2, 7.5, (7, 7, 8, 8, 8))]);
        let none = SummaryQuery { metric: Metric::CpuLoad, ..asked("", None, 3600) };
        assert!(one.summarise_metric(&none, NOW, 10).await.unwrap().is_empty());
        let narrowed = one.narrowed("tag = \"lab\"".parse().unwrap());
        assert_eq!(narrowed.summarise_metric(&asked("", None, 3600), NOW, 10).await.unwrap()[0].devices, 50);
        let two = db.account("two").await;
        assert!(two.summarise_metric(&asked("", None, 3600), NOW, 10).await.unwrap().is_empty());
    }
}
