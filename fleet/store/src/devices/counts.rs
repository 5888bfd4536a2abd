//! How many devices there are of each kind.

use std::str::FromStr;

use protocol_types::UnixSeconds;
use sqlx::{AssertSqlSafe, Row};

use crate::{
    AccountScope, StoreError,
    devices::{bound, presence::presence_as_sql},
    error::cannot,
    filter::{self, Filter, Place, Source},
    numbers::from_sql,
};

/// A field that devices can be counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountBy(Source);

/// A text that names no field to count by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "devices cannot be counted by `{0}`: name a field of the filter language other than `group`, as in `os.version`"
)]
pub struct NotCountable(String);

impl FromStr for CountBy {
    type Err = NotCountable;
    fn from_str(text: &str) -> Result<Self, NotCountable> {
        match filter::lookup(text).map(filter::Field::into_source) {
            // Whether a device is in a group may depend on its filter, so there is no list of the groups of a device.
            Some(Source::Group) | None => Err(NotCountable(text.chars().take(80).collect())),
            Some(source) => Ok(Self(source)),
        }
    }
}

/// How many devices have one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRow {
    /// The value; `None` for devices without one.
    pub value: Option<String>,
    /// How many devices have it.
    pub devices: u64,
}

/// How a field stands in a query over devices `d` and their reports `r`.
pub(crate) struct Grouping<'a> {
    /// The value of a device.
    pub(crate) value: String,
    /// The table that has it, where that is one of its own.
    pub(crate) join: String,
    /// For `$2`, which names the rows that count where that table has several for a device.
    pub(crate) only: &'a str,
}

impl CountBy {
    pub(crate) fn grouping(&self, now: UnixSeconds) -> Option<Grouping<'_>> {
        let rows_of = |table: &str, only: &str| {
            format!("LEFT JOIN {table} x ON x.account = d.account AND x.endpoint = d.endpoint{only}")
        };
        let (value, join, only) = match &self.0 {
            Source::Device(column) => (format!("d.{column}"), String::new(), ""),
            Source::Report(column) => (format!("r.{column}"), String::new(), ""),
            Source::Component { name, column } => {
                (format!("x.{column}"), rows_of("device_components", " AND x.name = $2"), name.as_str())
            }
            Source::Attribute(key) => {
                ("x.value".to_owned(), rows_of("device_attributes", " AND x.key = $2"), key.as_str())
            }
            Source::Presence => (presence_as_sql(now), String::new(), ""),
            Source::Tag => ("x.tag".to_owned(), rows_of("device_tags", ""), ""),
            Source::Group => return None,
        };
        Some(Grouping { value, join, only })
    }
}

/// Where the values of a field stand that has a table of its own, each device there at most once for a value.
struct Values {
    table: &'static str,
    /// Of the rows `x` those that count; `$2` names them.
    which: &'static str,
    /// The value, and the columns by which an index tells it apart.
    value: String,
    apart: String,
    /// How many devices have a value.
    having: &'static str,
}

impl CountBy {
    fn values(&self) -> Option<Values> {
        let summed = "(SELECT COALESCE(SUM(devices), 0) FROM counted)";
        Some(match &self.0 {
            Source::Component { column, .. } => {
                let value = format!("x.{column}");
                // A version and its key stand beside each other in the index, and each version has one key.
                let apart = if *column == "version" { "x.version_key, x.version".to_owned() } else { value.clone() };
                Values { table: "device_components", which: "x.name = $2", value, apart, having: summed }
            }
            Source::Attribute(_) => Values {
                table: "device_attributes",
                which: "x.key = $2",
                value: "x.value".to_owned(),
                apart: "x.value".to_owned(),
                having: summed,
            },
            Source::Tag => Values {
                table: "device_tags",
                which: "$2 = $2",
                value: "x.tag".to_owned(),
                apart: "x.tag".to_owned(),
                having: "(SELECT COUNT(*) FROM (SELECT DISTINCT x.endpoint FROM device_tags x WHERE x.account = $1) AS owners)",
            },
            Source::Device(_) | Source::Report(_) | Source::Presence | Source::Group => return None,
        })
    }

    /// A query that counts every device by the rows in which the values stand, and takes those without a value as what is left.
    fn over_every_device(&self) -> Option<String> {
        let Values { table, which, value, apart, having } = self.values()?;
        Some(format!(
            "WITH counted AS (SELECT {value} AS value, COUNT(*) AS devices FROM {table} x
                              WHERE x.account = $1 AND {which} GROUP BY {apart}),
                  whole AS (SELECT CAST(value AS TEXT) AS value, devices FROM counted UNION ALL
                            SELECT CAST(NULL AS TEXT) AS value,
                                   (SELECT COUNT(*) FROM devices d WHERE d.account = $1) - {having} AS devices)
             SELECT value, CAST(SUM(devices) AS BIGINT) AS devices FROM whole
             GROUP BY value HAVING SUM(devices) > 0 ORDER BY 2 DESC, 1 LIMIT $3"
        ))
    }
}

impl AccountScope {
    /// How many devices there are, by the value of a field; the most frequent values first, at most `limit`.
    pub async fn count_devices_by(
        &self,
        by: &CountBy,
        filter: &Filter,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<CountRow>, StoreError> {
        let doing = "count devices";
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let filter = self.resolved(&mut connection, filter).await?;
        let Some(Grouping { value, join, only }) = by.grouping(now) else { return Ok(Vec::new()) };
        let clause = filter.clause(Place { report: "r", first: 4, now });
        let report = if matches!(by.0, Source::Report(_)) || clause.asks_report {
            "LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint"
        } else {
            ""
        };
        let over_every_device = by.over_every_device().filter(|_| filter.is_every_device());
        let sql = over_every_device.unwrap_or_else(|| {
            format!(
                "SELECT CAST({value} AS TEXT) AS value, COUNT(*) AS devices FROM devices d {report} {join}
                 WHERE d.account = $1 AND $2 = $2 AND {} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $3",
                clause.sql
            )
        });
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(only).bind(i64::from(limit));
        let rows = bound(query, clause.binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let devices = from_sql(row.try_get("devices").map_err(cannot(doing))?);
                Ok(CountRow { value: row.try_get("value").map_err(cannot(doing))?, devices })
            })
            .collect()
    }

    /// How many devices a filter is true for.
    pub async fn count_devices(&self, filter: &Filter, now: UnixSeconds) -> Result<u64, StoreError> {
        let doing = "count devices";
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let filter = self.resolved(&mut connection, filter).await?;
        let clause = filter.clause(Place { report: "r", first: 2, now });
        let sql = format!(
            "SELECT COUNT(*) AS devices FROM devices d
             LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
             WHERE d.account = $1 AND {}",
            clause.sql
        );
        let query = bound(sqlx::query(AssertSqlSafe(sql)).bind(self.id()), clause.binds);
        let row = query.fetch_one(&mut *connection).await.map_err(cannot(doing))?;
        Ok(from_sql(row.try_get("devices").map_err(cannot(doing))?))
    }
}
