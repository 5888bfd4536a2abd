//! How far a rollout is on each device: the facts that a decision needs, and the one transaction that carries a decision out.
//! The decision itself comes as a function, so that it is made on exactly the rows that it changes.

use protocol_types::{
    AccountName, DeviceState, EndpointName, Reason, RolloutId, RolloutState, UnixSeconds, WaitingFor,
};
use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Audience, DesiredRelease, DesiredRow, DeviceReport, EventDraft, RolloutRow, ServiceWide, Standing,
    StoreError,
    devices::bound,
    error::cannot,
    events,
    filter::{Bind, Clause, Filter, Place},
    numbers::{from_sql, time, to_sql},
    transaction::Transaction,
    updates::{self, parsed, read_reason, read_report, read_wish},
};

/// How far a rollout is on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutDeviceRow {
    /// The device.
    pub endpoint: EndpointName,
    /// How far it is.
    pub state: DeviceState,
    /// What it waits for, if it waits.
    pub waiting_for: Option<WaitingFor>,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
    /// Per cent, while downloading.
    pub progress: Option<u8>,
    /// Since when.
    pub since: UnixSeconds,
}

/// Everything known about one device of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The device.
    pub endpoint: EndpointName,
    /// How far the rollout is on it; `None` if it has just come into the audience.
    pub at: Option<(DeviceState, Option<WaitingFor>)>,
    /// Whether it is registered now, and its standing; `None` if it is no longer in the directory.
    pub present: Option<(bool, Standing)>,
    /// What it should run.
    pub wish: Option<DesiredRow>,
    /// What it last said.
    pub said: Option<DeviceReport>,
    /// Whether a rollout that was started later and goes on decides what it runs.
    pub newer: bool,
    /// Whether an operator has said yes to the rollout on this device.
    pub consented: bool,
}

/// How many devices of a rollout are in each state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<(DeviceState, u64)>);

impl Counts {
    /// Devices in one of the states.
    pub fn of(&self, states: &[DeviceState]) -> u64 {
        self.0.iter().filter(|(state, _)| states.contains(state)).map(|(_, n)| n).sum()
    }

    /// All devices.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, n)| n).sum()
    }
}

/// Everything known about a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutFacts {
    /// The rollout.
    pub rollout: RolloutRow,
    /// Its devices that have not come to an end, in the order of their names.
    pub devices: Vec<DeviceFacts>,
    /// All its devices by state, apart from those that have just come into the audience.
    pub counts: Counts,
}

/// What happens to the wish for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WishStep {
    /// It stays.
    Leave,
    /// The release of the rollout is wanted.
    Set,
    /// The rollout wants nothing any more; another rollout's wish stays.
    Clear,
}

/// One device moves on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStep {
    /// The device.
    pub endpoint: EndpointName,
    /// Its next state.
    pub to: DeviceState,
    /// What it then waits for.
    pub waiting_for: Option<WaitingFor>,
    /// Why.
    pub reason: Option<Reason>,
    /// What happens to its wish.
    pub wish: WishStep,
}

/// What happens next: nothing, if both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Devices that move on.
    pub devices: Vec<DeviceStep>,
    /// The state that the rollout itself moves to.
    pub rollout: Option<(RolloutState, Option<Reason>)>,
}

impl Decision {
    /// Whether nothing happens.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.rollout.is_none()
    }
}

const ENDS: &str = "('succeeded', 'failed', 'rolled_back', 'skipped', 'superseded', 'cancelled')";

/// Columns of a device's facts, for a query with `d` devices, `r` rollout devices, `w` wishes and `s` reports.
const FACTS: &str = "d.connected AS connected, d.standing AS standing,
    w.generation AS wish_generation, w.acknowledged AS wish_acknowledged, w.path AS wish_path, w.digest AS wish_digest,
    w.rollout AS wish_rollout, w.changed AS wish_changed,
    s.phase AS said_phase, s.reason_code AS said_reason_code, s.reason_text AS said_reason_text,
    s.progress AS said_progress, s.rollout AS said_rollout, s.digest AS said_digest,
    s.running_version AS said_running_version, s.running_digest AS said_running_digest, s.slot AS said_slot,
    s.floor AS said_floor";

fn newer(endpoint: &str) -> String {
    // $3 is the start order of the rollout that asks.
    format!(
        "CASE WHEN EXISTS (SELECT 1 FROM rollout_devices o JOIN rollouts n ON n.account = o.account AND n.id = o.rollout
             WHERE o.account = $1 AND o.endpoint = {endpoint} AND n.start_order > $3 AND n.state IN ('running', 'paused', 'finished')
               AND o.state NOT IN ('superseded', 'cancelled')) THEN 1 ELSE 0 END AS newer"
    )
}

fn read_facts(row: &AnyRow) -> Result<DeviceFacts, StoreError> {
    let doing = "read the facts of a device";
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let damaged = |column| StoreError::Damaged { table: "rollout_devices", column };
    let at = match updates::text(row, "state")? {
        Some(state) => Some((DeviceState::parse(&state).ok_or_else(|| damaged("state"))?, read_waiting(row)?)),
        None => None,
    };
    let standing = updates::text(row, "standing")?.map(|text| Standing::read(&text)).transpose()?;
    // To a rollout, a device that was taken out of service is not there.
    let present = standing
        .filter(|standing| *standing != Standing::Decommissioned)
        .map(|standing| Ok::<_, StoreError>((number("connected")? == Some(1), standing)))
        .transpose()?;
    Ok(DeviceFacts {
        endpoint: parsed(row, "endpoint")?.ok_or_else(|| damaged("endpoint"))?,
        at,
        present,
        wish: read_wish(row)?,
        said: read_report(row)?,
        // A constant of a query is a plain integer on one database and a long one on the other.
        newer: row.try_get::<i64, _>("newer").map_err(cannot(doing))? == 1,
        consented: number("consented")?.is_some(),
    })
}

fn read_waiting(row: &AnyRow) -> Result<Option<WaitingFor>, StoreError> {
    let damaged = || StoreError::Damaged { table: "rollout_devices", column: "waiting_for" };
    updates::text(row, "waiting_for")?.map(|text| WaitingFor::parse(&text).ok_or_else(damaged)).transpose()
}

impl ServiceWide {
    /// Rollouts on which something may still happen, those that were started last first.
    pub async fn rollouts_under_way(&self) -> Result<Vec<(AccountName, RolloutId)>, StoreError> {
        let doing = "look for rollouts under way";
        let sql = format!(
            "SELECT account, id FROM rollouts t WHERE state IN ('running', 'paused') OR (state IN ('stopped', 'aborted')
                 AND EXISTS (SELECT 1 FROM rollout_devices r WHERE r.account = t.account AND r.rollout = t.id
                             AND r.state NOT IN {ENDS}))
             ORDER BY account, start_order DESC"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(self.store.readers()).await.map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let damaged = |column| StoreError::Damaged { table: "rollouts", column };
                let account = parsed(row, "account")?.ok_or_else(|| damaged("account"))?;
                Ok((account, parsed(row, "id")?.ok_or_else(|| damaged("id"))?))
            })
            .collect()
    }
}

impl AccountScope {
    /// Lets `decide` look at everything known about a rollout and carries its decision out, all in one transaction with the
    /// events that tell of it. Answers how many devices moved on.
    pub async fn reconcile_rollout(
        &self,
        id: &RolloutId,
        decide: impl Fn(&RolloutFacts) -> Decision,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        // Most looks find nothing to do and need no turn to write.
        let mut reader = self.readers().acquire().await.map_err(cannot("look at a rollout"))?;
        if decide(&self.rollout_facts(&mut reader, id, now).await?).is_empty() {
            return Ok(0);
        }
        drop(reader);
        let mut tx = self.write().await?;
        let facts = self.rollout_facts(tx.sql(), id, now).await?;
        let decision = decide(&facts);
        for step in &decision.devices {
            self.move_device(&mut tx, &facts.rollout, step, now).await?;
        }
        if let Some((state, reason)) = &decision.rollout {
            self.set_rollout_state(&mut tx, id, (*state, reason.as_ref()), now).await?;
            let kind = format!("rollout.{state}");
            let draft =
                EventDraft { kind: &kind, subject: format!("rollouts/{id}"), data: json!({ "reason": reason }) };
            events::append(&mut tx, self, now, draft).await?;
        }
        tx.commit().await?;
        Ok(decision.devices.len())
    }

    async fn move_device(
        &self,
        tx: &mut Transaction,
        rollout: &RolloutRow,
        step: &DeviceStep,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let id = &rollout.id;
        sqlx::query(
            "INSERT INTO rollout_devices (account, rollout, endpoint, state, waiting_for, reason_code, reason_text, since)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (account, rollout, endpoint) DO UPDATE SET state = excluded.state,
                 waiting_for = excluded.waiting_for, reason_code = excluded.reason_code,
                 reason_text = excluded.reason_text, since = excluded.since",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(step.endpoint.as_str())
        .bind(step.to.as_str())
        .bind(step.waiting_for.map(WaitingFor::as_str))
        .bind(step.reason.as_ref().map(|r| r.code.as_str()))
        .bind(step.reason.as_ref().map(|r| r.text.as_str()))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("move a device of a rollout"))?;
        let release =
            DesiredRelease { path: rollout.path.clone(), digest: rollout.digest, rollout: rollout.id.clone() };
        let place = (&step.endpoint, id);
        match step.wish {
            WishStep::Leave => {}
            WishStep::Set => updates::wish(tx, self, place, Some(&release), now).await?,
            WishStep::Clear => updates::wish(tx, self, place, None, now).await?,
        }
        let data = json!({ "rollout": id, "release": rollout.wanted.release, "endpoint": step.endpoint, "state": step.to,
                           "waiting_for": step.waiting_for, "reason": step.reason });
        let subject = format!("rollouts/{id}/devices/{}", step.endpoint);
        events::append(tx, self, now, EventDraft { kind: "rollout.device", subject, data }).await
    }

    async fn rollout_facts(
        &self,
        sql: &mut AnyConnection,
        id: &RolloutId,
        now: UnixSeconds,
    ) -> Result<RolloutFacts, StoreError> {
        let rollout = self.rollout_on(sql, id).await?;
        let counts = self.count_states(sql, id).await?;
        let order = rollout.start_order.map_or(i64::MAX, to_sql);
        let known = format!(
            "SELECT r.endpoint AS endpoint, r.state AS state, r.waiting_for AS waiting_for, r.consented AS consented, {}, {FACTS}
             FROM rollout_devices r
             LEFT JOIN devices d ON d.account = r.account AND d.endpoint = r.endpoint
             LEFT JOIN desired_releases w ON w.account = r.account AND w.endpoint = r.endpoint
             LEFT JOIN device_reports s ON s.account = r.account AND s.endpoint = r.endpoint
             WHERE r.account = $1 AND r.rollout = $2 AND r.state NOT IN {ENDS} ORDER BY r.endpoint",
            newer("r.endpoint")
        );
        let mut devices = self.facts(sql, (known, Vec::new()), id, order).await?;
        if rollout.state == RolloutState::Running
            && let Some(filter) = joined(&rollout.wanted.audience)
        {
            let filter = self.resolved(sql, &filter).await?;
            let Clause { sql: condition, binds, .. } = filter.clause(Place { report: "s", first: 4, now });
            let fresh = format!(
                "SELECT d.endpoint AS endpoint, CAST(NULL AS TEXT) AS state, CAST(NULL AS TEXT) AS waiting_for,
                        CAST(NULL AS BIGINT) AS consented, {}, {FACTS}
                 FROM devices d
                 LEFT JOIN desired_releases w ON w.account = d.account AND w.endpoint = d.endpoint
                 LEFT JOIN device_reports s ON s.account = d.account AND s.endpoint = d.endpoint
                 WHERE d.account = $1 AND d.standing <> 'decommissioned' AND {condition} AND NOT EXISTS (SELECT 1 FROM rollout_devices r
                     WHERE r.account = $1 AND r.rollout = $2 AND r.endpoint = d.endpoint) ORDER BY d.endpoint",
                newer("d.endpoint")
            );
            devices.extend(self.facts(sql, (fresh, binds), id, order).await?);
        }
        Ok(RolloutFacts { rollout, devices, counts })
    }

    async fn facts(
        &self,
        connection: &mut AnyConnection,
        (sql, binds): (String, Vec<Bind>),
        id: &RolloutId,
        order: i64,
    ) -> Result<Vec<DeviceFacts>, StoreError> {
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(id.as_str()).bind(order);
        let rows = bound(query, binds).fetch_all(connection).await.map_err(cannot("read the facts of a rollout"))?;
        rows.iter().map(read_facts).collect()
    }

    async fn count_states(&self, connection: &mut AnyConnection, id: &RolloutId) -> Result<Counts, StoreError> {
        let doing = "count the devices of a rollout";
        let rows = sqlx::query(
            "SELECT state, COUNT(*) AS devices FROM rollout_devices WHERE account = $1 AND rollout = $2
             GROUP BY state ORDER BY state",
        )
        .bind(self.id())
        .bind(id.as_str())
        .fetch_all(connection)
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let state: String = row.try_get("state").map_err(cannot(doing))?;
                let damaged = StoreError::Damaged { table: "rollout_devices", column: "state" };
                let devices = row.try_get("devices").map_err(cannot(doing))?;
                Ok((DeviceState::parse(&state).ok_or(damaged)?, from_sql(devices)))
            })
            .collect::<Result<_, _>>()
            .map(Counts)
    }

    /// How many devices of a rollout are in each state.
    pub async fn rollout_counts(&self, id: &RolloutId) -> Result<Counts, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("count the devices of a rollout"))?;
        self.count_states(&mut connection, id).await
    }

    /// At most `limit` devices of a rollout whose name comes after `after`, if given only those in one state.
    pub async fn rollout_devices_after(
        &self,
        id: &RolloutId,
        state: Option<DeviceState>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<RolloutDeviceRow>, StoreError> {
        let doing = "list the devices of a rollout";
        self.rollout(id).await?;
        let rows = sqlx::query(
            "SELECT r.endpoint, r.state, r.waiting_for, r.reason_code, r.reason_text, r.since, s.progress
             FROM rollout_devices r
             LEFT JOIN device_reports s ON s.account = r.account AND s.endpoint = r.endpoint AND s.rollout = r.rollout
             WHERE r.account = $1 AND r.rollout = $2 AND r.endpoint > $3 AND ($4 = '' OR r.state = $4)
             ORDER BY r.endpoint LIMIT $5",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(after)
        .bind(state.map_or("", DeviceState::as_str))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let damaged = |column| StoreError::Damaged { table: "rollout_devices", column };
                let state: String = row.try_get("state").map_err(cannot(doing))?;
                let state = DeviceState::parse(&state).ok_or_else(|| damaged("state"))?;
                let progress: Option<i64> = row.try_get("progress").map_err(cannot(doing))?;
                let downloading = state == DeviceState::Downloading;
                Ok(RolloutDeviceRow {
                    endpoint: parsed(row, "endpoint")?.ok_or_else(|| damaged("endpoint"))?,
                    state,
                    progress: progress.filter(|_| downloading).and_then(|n| u8::try_from(n).ok()),
                    waiting_for: read_waiting(row)?,
                    reason: read_reason(row, "reason_code", "reason_text")?,
                    since: time(row.try_get("since").map_err(cannot(doing))?),
                })
            })
            .collect()
    }
}

/// Which devices come into the audience while the rollout runs. A list of devices is complete from the beginning.
fn joined(audience: &Audience) -> Option<Filter> {
    match audience {
        Audience::All => Some(Filter::every_device()),
        Audience::Group(group) => Some(Filter::of_group(group)),
        Audience::Filter(filter) => Some(filter.clone()),
        Audience::Devices(_) => None,
    }
}
