//! Rollouts: what goes to which devices, how carefully, and how far it is. Never decides what happens next.

pub(crate) mod actions;
pub(crate) mod consent;
pub(crate) mod decision;
pub(crate) mod dry_run;
pub(crate) mod facts;
pub(crate) mod policy;
pub(crate) mod progress;
pub(crate) mod returns;
pub(crate) mod subject;
pub(crate) mod updates;

#[cfg(test)]
mod tests;

use protocol_types::{Digest, EndpointName, Reason, RolloutId, RolloutState, TargetPath, UnixSeconds};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    AccountScope, Audience, EventDraft, NewRollout, ReleaseRow, RequestKey, StoreError, Subject,
    configurations::staging::must_be_staged,
    error::cannot,
    events, idempotency,
    numbers::{from_sql, time, to_sql},
    rollouts::updates::read_reason,
    rows::{self, formed, parsed},
    transaction::Transaction,
};

/// A rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutRow {
    /// Its name in addresses and on devices.
    pub id: RolloutId,
    /// Its number in the account: 1, 2, 3 and so on.
    pub number: u64,
    /// What was asked for.
    pub wanted: NewRollout,
    /// Target path of the release, if it brings one.
    pub path: Option<TargetPath>,
    /// Digest of the document of the release, or of the configuration.
    pub digest: Digest,
    /// How far it is.
    pub state: RolloutState,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it was first started.
    pub started: Option<UnixSeconds>,
    /// Counts starts in the account; of two rollouts for a device the one with the higher number decides.
    pub start_order: Option<u64>,
    /// Who started it.
    pub started_by: Option<String>,
    /// Who approved it, if somebody had to.
    pub approved_by: Option<String>,
    /// Whether its audience admits no further devices.
    pub closed: bool,
    /// The last wave that is open, from 0.
    pub wave: u32,
    /// Failed devices that no longer count, because an operator let the rollout go on.
    pub excused: u64,
    /// The rollout whose devices this one brings back.
    pub brings_back: Option<RolloutId>,
    /// When the rollout itself last changed.
    pub changed: UnixSeconds,
    /// Counts every change of the rollout itself.
    pub revision: i64,
}

impl RolloutRow {
    /// A rollout that was not made, as if it had just been started.
    pub fn imagined(
        wanted: NewRollout,
        (path, digest): (Option<TargetPath>, Digest),
        now: UnixSeconds,
    ) -> Result<Self, StoreError> {
        let id = RolloutId::new("imagined").map_err(|_| StoreError::Damaged { table: "rollouts", column: "id" })?;
        Ok(Self {
            id,
            number: 0,
            wanted,
            path,
            digest,
            state: RolloutState::Running,
            reason: None,
            created: now,
            started: Some(now),
            start_order: None,
            started_by: None,
            approved_by: None,
            closed: false,
            wave: 0,
            excused: 0,
            brings_back: None,
            changed: now,
            revision: 0,
        })
    }
}

pub(crate) const COLUMNS: &str =
    "id, number, name, version, path, level, level_name, level_revision, digest, audience, threshold, on_failure, max_in_flight, time_window, consent,
    priority, policy, state, reason_code, reason_text, created, started, start_order, started_by, approved_by, closed, wave,
    excused, brings_back, changed, revision";

/// The JSON form of what a column of the table holds.
pub(crate) fn as_json(value: &impl Serialize, column: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Damaged { table: "rollouts", column })
}

pub(crate) fn read(row: &AnyRow) -> Result<RolloutRow, StoreError> {
    let doing = "read a rollout";
    let damaged = |column| StoreError::Damaged { table: "rollouts", column };
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    let optional = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let window: Option<String> = row.try_get("time_window").map_err(cannot(doing))?;
    Ok(RolloutRow {
        id: formed(row, doing, ("rollouts", "id"))?,
        number: from_sql(number("number")?),
        wanted: NewRollout {
            name: text("name")?,
            subject: Subject::read(row)?,
            audience: serde_json::from_str(&text("audience")?).map_err(|_| damaged("audience"))?,
            threshold: serde_json::from_str(&text("threshold")?).map_err(|_| damaged("threshold"))?,
            on_failure: formed(row, doing, ("rollouts", "on_failure"))?,
            // One that cannot be read is not the same as no limit.
            max_in_flight: optional("max_in_flight")?
                .map(u32::try_from)
                .transpose()
                .map_err(|_| damaged("max_in_flight"))?,
            window: match window {
                Some(text) => Some(serde_json::from_str(&text).map_err(|_| damaged("time_window"))?),
                None => None,
            },
            consent: formed(row, doing, ("rollouts", "consent"))?,
            priority: u8::try_from(number("priority")?).map_err(|_| damaged("priority"))?,
            policy: serde_json::from_str(&text("policy")?).map_err(|_| damaged("policy"))?,
        },
        path: parsed(row, "path")?,
        digest: formed(row, doing, ("rollouts", "digest"))?,
        state: formed(row, doing, ("rollouts", "state"))?,
        reason: read_reason(row, "reason_code", "reason_text")?,
        created: time(number("created")?),
        started: optional("started")?.map(time),
        start_order: optional("start_order")?.map(from_sql),
        started_by: rows::text(row, "started_by")?,
        approved_by: rows::text(row, "approved_by")?,
        closed: number("closed")? != 0,
        wave: u32::try_from(number("wave")?).map_err(|_| damaged("wave"))?,
        excused: from_sql(number("excused")?),
        brings_back: parsed(row, "brings_back")?,
        changed: time(number("changed")?),
        revision: number("revision")?,
    })
}

fn no_rollout(id: &RolloutId) -> StoreError {
    StoreError::NotFound { kind: "rollout", id: id.to_string() }
}

/// The next number of a counter of the account.
pub(crate) async fn count(tx: &mut Transaction, scope: &AccountScope, name: &str) -> Result<i64, StoreError> {
    let doing = "count";
    let row = sqlx::query(
        "INSERT INTO counters (account, name, value) VALUES ($1, $2, 1)
         ON CONFLICT (account, name) DO UPDATE SET value = counters.value + 1 RETURNING value",
    )
    .bind(scope.id())
    .bind(name)
    .fetch_one(tx.sql())
    .await
    .map_err(cannot(doing))?;
    row.try_get("value").map_err(cannot(doing))
}

/// A release that its owner has withdrawn is not brought to further devices.
fn must_be_listed(release: &ReleaseRow) -> Result<(), StoreError> {
    if release.listed {
        return Ok(());
    }
    let state = "no longer listed in the targets".to_owned();
    Err(StoreError::WrongState { kind: "release", id: release.version.to_string(), state })
}

impl AccountScope {
    /// Makes a rollout of a listed release or of a staged configuration. Nothing happens on any device before
    /// [`protocol_types::RolloutAction::Start`].
    pub async fn create_rollout(
        &self,
        wanted: &NewRollout,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<RolloutRow, StoreError> {
        let target = self.rollout_target(&wanted.subject).await?;
        let mut tx = self.write().await?;
        let number = count(&mut tx, self, "rollouts").await?;
        let id = format!("r{number}");
        // Dropping the transaction of a repeated request also gives its number back.
        if let Some(earlier) = idempotency::claim(&mut tx, self, key, &id, now).await? {
            drop(tx);
            let damaged = |_| StoreError::Damaged { table: "idempotency_keys", column: "resource" };
            return self.rollout(&RolloutId::new(earlier).map_err(damaged)?).await;
        }
        let id = RolloutId::new(id).map_err(|_| StoreError::Damaged { table: "counters", column: "value" })?;
        self.insert_rollout(&mut tx, (&id, number), (wanted, &target), now).await?;
        let mut data = wanted.subject.told();
        data.insert("name".to_owned(), json!(wanted.name));
        let data = data.into();
        let draft = EventDraft { kind: "rollout.created", subject: format!("rollouts/{id}"), data };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.rollout(&id).await
    }

    /// What a rollout brings, as devices know it: the path of a release, and the digest of its document or of that of the configuration.
    async fn rollout_target(&self, subject: &Subject) -> Result<(Option<TargetPath>, Digest), StoreError> {
        match subject {
            Subject::Release(version) => {
                let release = self.release(version).await?;
                must_be_listed(&release)?;
                Ok((Some(release.path), release.digest))
            }
            Subject::Configuration { level, revision } => {
                let row = self.configuration_revision(level, *revision).await?;
                must_be_staged(row.standing, *revision)?;
                Ok((None, Digest::of(Value::Object(row.document).to_string().as_bytes())))
            }
        }
    }

    /// Refuses to bring devices what was taken back since the rollout was made.
    async fn must_still_be_brought(&self, tx: &mut Transaction, subject: &Subject) -> Result<(), StoreError> {
        match subject {
            Subject::Release(version) => must_be_listed(&self.release_on(tx.sql(), version).await?),
            Subject::Configuration { level, revision } => self.must_still_be_staged(tx, level, *revision).await,
        }
    }

    pub(crate) async fn insert_rollout(
        &self,
        tx: &mut Transaction,
        (id, number): (&RolloutId, i64),
        (wanted, (path, digest)): (&NewRollout, &(Option<TargetPath>, Digest)),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "make a rollout";
        let (version, of) = match &wanted.subject {
            Subject::Release(version) => (Some(version.to_string()), None),
            Subject::Configuration { level, revision } => (None, Some((level, *revision))),
        };
        let window = wanted.window.as_ref().map(|window| as_json(window, "time_window")).transpose()?;
        sqlx::query(
            "INSERT INTO rollouts (account, id, number, name, version, path, digest, audience, threshold, max_in_flight,
                                   time_window, consent, on_failure, priority, policy, closed, state, created, changed, revision,
                                   level, level_name, level_revision)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 'draft', $17, $17, 1, $18, $19, $20)",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(number)
        .bind(wanted.name.as_str())
        .bind(version)
        .bind(path.as_ref().map(TargetPath::as_str))
        .bind(digest.to_string())
        .bind(as_json(&wanted.audience, "audience")?)
        .bind(as_json(&wanted.threshold, "threshold")?)
        .bind(wanted.max_in_flight.map(i64::from))
        .bind(window)
        .bind(wanted.consent.as_str())
        .bind(wanted.on_failure.as_str())
        .bind(i64::from(wanted.priority))
        .bind(as_json(&wanted.policy, "policy")?)
        .bind(i64::from(matches!(wanted.audience, Audience::Devices(_))))
        .bind(to_sql(now.0))
        .bind(of.map(|(level, _)| level.kind()))
        .bind(of.map(|(level, _)| level.name()))
        .bind(of.map(|(_, revision)| revision))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Audience::Devices(devices) = &wanted.audience else { return Ok(()) };
        for endpoint in devices {
            let done = sqlx::query(
                "INSERT INTO rollout_devices (account, rollout, endpoint, state, since)
                 SELECT account, $2, endpoint, 'queued', $4 FROM devices WHERE account = $1 AND endpoint = $3
                 ON CONFLICT (account, rollout, endpoint) DO NOTHING",
            )
            .bind(self.id())
            .bind(id.as_str())
            .bind(endpoint.as_str())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
            if done.rows_affected() == 0 && !self.is_device(tx.sql(), endpoint).await? {
                return Err(StoreError::NotFound { kind: "device", id: endpoint.to_string() });
            }
        }
        Ok(())
    }

    async fn is_device(&self, sql: &mut AnyConnection, endpoint: &EndpointName) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT endpoint FROM devices WHERE account = $1 AND endpoint = $2")
            .bind(self.id())
            .bind(endpoint.as_str())
            .fetch_optional(sql)
            .await
            .map_err(cannot("look for a device"))?;
        Ok(row.is_some())
    }

    /// One rollout.
    pub async fn rollout(&self, id: &RolloutId) -> Result<RolloutRow, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("read a rollout"))?;
        self.rollout_on(&mut connection, id).await
    }

    pub(crate) async fn rollout_on(
        &self,
        connection: &mut AnyConnection,
        id: &RolloutId,
    ) -> Result<RolloutRow, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM rollouts WHERE account = $1 AND id = $2"));
        let row = sqlx::query(sql)
            .bind(self.id())
            .bind(id.as_str())
            .fetch_optional(connection)
            .await
            .map_err(cannot("read a rollout"))?;
        row.as_ref().map_or_else(|| Err(no_rollout(id)), read)
    }

    /// At most `limit` rollouts whose number comes after `after`.
    pub async fn rollouts_after(&self, after: u64, limit: u32) -> Result<Vec<RolloutRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM rollouts WHERE account = $1 AND number > $2 ORDER BY number LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.id())
            .bind(to_sql(after))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list rollouts"))?;
        rows.iter().map(read).collect()
    }
}
