//! An audience in classes: devices that no rule of a rollout tells apart are counted together, by the database. Never decides.

use protocol_types::{Digest, UnixSeconds};
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Audience, DeviceFacts, DeviceReport, NewRollout, StoreError, Zone,
    devices::{self, bound},
    error::cannot,
    filter::{Bind, Place},
    numbers::from_sql,
    rollouts::facts::{admitted, one_of, outranked, read_matches},
    rows::{self, parsed},
};

/// Devices of an audience that are alike in everything that a rule asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClass {
    /// The facts of one of them; what no rule asks about is left out.
    pub example: DeviceFacts,
    /// How many there are.
    pub devices: u64,
}

/// The first placeholder that is free for filters.
const FIRST: usize = 7;
/// That a device runs what the rollout brings: it counts beside the others of its class, so that no report tells classes apart.
const RUNS: &str = "s.running_digest = $6 AND s.phase IN ('idle', 'succeeded', 'failed', 'rolled_back')";

/// The columns that tell classes apart. Those of every device come first and in the order of their index, which spares sorting a
/// million rows; a column behind them that is the same for all, because it was not asked for, would hide that order from the database.
fn apart(waves: usize, are_asked: [bool; 2]) -> String {
    let mut columns: Vec<usize> = (1..=3 + waves).collect();
    columns.extend((4 + waves..).zip(are_asked).filter_map(|(column, is_asked)| is_asked.then_some(column)));
    columns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl AccountScope {
    /// The audience of a rollout that was not made, if it were started now; `digest` is that of what it brings.
    pub async fn audience_in_classes(
        &self,
        wanted: &NewRollout,
        digest: &Digest,
        now: UnixSeconds,
    ) -> Result<Vec<DeviceClass>, StoreError> {
        let doing = "count an audience";
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        // Each of these costs a look-up for every device, so it is asked only where a rule does.
        let is_outranked = self.something_is_above(&mut connection, wanted).await?;
        let above = if is_outranked { outranked("d.endpoint") } else { "CAST(NULL AS TEXT)".to_owned() };
        let has_zone = wanted.window.as_ref().is_some_and(|hours| hours.zone == Zone::Device);
        let (zone, zones) = if has_zone {
            (
                "z.value",
                "LEFT JOIN device_attributes z ON z.account = d.account AND z.endpoint = d.endpoint AND z.key = 'timezone'",
            )
        } else {
            ("CAST(NULL AS TEXT)", "")
        };
        let (condition, mut binds) = self.members(&mut connection, wanted, FIRST, now).await?;
        let (waves, more, filters) =
            self.wave_columns(&mut connection, &wanted.policy.waves, FIRST + binds.len(), now).await?;
        binds.extend(more);
        let sql = format!(
            "SELECT d.update_failures AS failures, d.connected AS connected, d.standing AS standing, {waves}
                    {zone} AS zone, {above} AS outranked_by, COUNT(*) AS devices, COUNT(CASE WHEN {RUNS} THEN 1 END) AS running,
                    MIN(CASE WHEN {RUNS} THEN d.endpoint END) AS runner, MIN(CASE WHEN {RUNS} THEN NULL ELSE d.endpoint END) AS other
             FROM devices d LEFT JOIN device_reports s ON s.account = d.account AND s.endpoint = d.endpoint {zones}
             WHERE d.account = $1 AND d.standing <> 'decommissioned' AND $2 = $2 AND CAST($3 AS BIGINT) = CAST($3 AS BIGINT)
                 AND CAST($4 AS BIGINT) = CAST($4 AS BIGINT) AND $5 = $5 AND {condition}
             GROUP BY {}",
            apart(filters.len(), [has_zone, is_outranked])
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind("")
            .bind(i64::MAX)
            .bind(i64::from(wanted.priority))
            .bind(wanted.subject.key())
            .bind(digest.to_string());
        let rows = bound(query, binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        let mut classes = Vec::new();
        for row in &rows {
            read_classes(row, (&filters, wanted, digest), &mut classes)?;
        }
        Ok(classes)
    }

    async fn something_is_above(&self, sql: &mut AnyConnection, wanted: &NewRollout) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT id FROM rollouts WHERE account = $1 AND priority > $2 AND state IN ('running', 'paused')
                 AND COALESCE(level || '/' || level_name, '') = $3 LIMIT 1",
        )
        .bind(self.id())
        .bind(i64::from(wanted.priority))
        .bind(wanted.subject.key())
        .fetch_optional(sql)
        .await
        .map_err(cannot("look for rollouts"))?;
        Ok(row.is_some())
    }

    /// The condition that a device is in an audience; the first placeholder is `first`.
    async fn members(
        &self,
        sql: &mut AnyConnection,
        wanted: &NewRollout,
        first: usize,
        now: UnixSeconds,
    ) -> Result<(String, Vec<Bind>), StoreError> {
        match (admitted(wanted), &wanted.audience) {
            (Some(filter), _) => {
                let filter = self.resolved(sql, &filter).await?;
                let clause = filter.clause(Place { report: "s", first, now });
                Ok((clause.sql, clause.binds))
            }
            (None, Audience::Devices(devices)) => Ok(one_of("d.endpoint", devices, first)),
            (None, Audience::All | Audience::Group(_) | Audience::Filter(_)) => Ok(("1 = 0".to_owned(), Vec::new())),
        }
    }
}

/// The classes of a row: the devices that run what the rollout brings, and the others.
fn read_classes(
    row: &AnyRow,
    (filters, wanted, digest): (&[u32], &NewRollout, &Digest),
    classes: &mut Vec<DeviceClass>,
) -> Result<(), StoreError> {
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(cannot("count an audience"));
    let standing = devices::standing(row, "count an audience")?;
    let failures = u32::try_from(number("failures")?).unwrap_or(u32::MAX);
    let is_held = wanted.policy.hold_after != 0 && failures >= wanted.policy.hold_after;
    let (devices, running) = (from_sql(number("devices")?), from_sql(number("running")?));
    for (column, devices, runs) in [("runner", running, true), ("other", devices.saturating_sub(running), false)] {
        let Some(endpoint) = parsed(row, column)? else { continue };
        let said = runs.then(|| DeviceReport { running_digest: Some(*digest), ..DeviceReport::idle() });
        let example = DeviceFacts {
            endpoint,
            at: None,
            wave: None,
            matches: read_matches(row, filters)?,
            attempt: 1,
            failed: 0,
            not_before: None,
            present: Some((number("connected")? == 1, standing)),
            last_seen: None,
            meant: true,
            wish: None,
            said,
            outranked_by: parsed(row, "outranked_by")?,
            consented: false,
            failures: if is_held { failures } else { 0 },
            zone: rows::text(row, "zone")?,
        };
        classes.push(DeviceClass { example, devices });
    }
    Ok(())
}
