//! Rollouts: which release goes to which devices, how carefully, and how far it is. Never decides what happens next.

use protocol_types::{
    Digest, EndpointName, GroupName, Reason, ReleaseVersion, RolloutId, RolloutState, TargetPath, UnixSeconds,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    AccountScope, Change, EventDraft, Filter, RequestKey, StoreError,
    error::cannot,
    events, idempotency,
    numbers::{from_sql, time, to_sql},
    transaction::Transaction,
    updates::{parsed, read_reason},
};

/// Which devices a rollout is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Every device of the account, also those that join while it runs.
    All,
    /// The members of a group, also those that join it while it runs.
    Group(GroupName),
    /// The devices that a filter is true for, also those for which it becomes true while the rollout runs.
    Filter(Filter),
    /// These devices.
    Devices(Vec<EndpointName>),
}

/// How many devices may fail before a rollout stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// It stops at so many failed devices; at least 1.
    Count(u32),
    /// It stops when so many per cent of the audience have failed; 1 to 100.
    Percent(u8),
}

/// Hours of each day in which a rollout may offer the release, in minutes after midnight UTC. The end may lie on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DailyWindow {
    /// The first minute.
    pub from: u16,
    /// The first minute that is outside again.
    pub until: u16,
}

/// Whose yes a device needs before it is offered the release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consent {
    /// Nobody's.
    #[default]
    Automatic,
    /// An operator's, given for each device.
    Operator,
}

impl Consent {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Operator => "operator",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Automatic, Self::Operator].into_iter().find(|consent| consent.as_str() == text)
    }
}

/// A rollout to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRollout {
    /// What people call it.
    pub name: String,
    /// The release.
    pub release: ReleaseVersion,
    /// For which devices.
    pub audience: Audience,
    /// How many may fail.
    pub threshold: Threshold,
    /// How many devices may be under way at a time; `None` for all.
    pub max_in_flight: Option<u32>,
    /// When it may act; `None` for always.
    pub window: Option<DailyWindow>,
    /// Whose yes each device needs.
    pub consent: Consent,
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutRow {
    /// Its name in addresses and on devices.
    pub id: RolloutId,
    /// Its number in the account: 1, 2, 3 and so on.
    pub number: u64,
    /// What was asked for.
    pub wanted: NewRollout,
    /// Target path of the release.
    pub path: TargetPath,
    /// Digest of the release document.
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
    /// When the rollout itself last changed.
    pub changed: UnixSeconds,
    /// Counts every change of the rollout itself.
    pub revision: i64,
}

pub(crate) const COLUMNS: &str =
    "id, number, name, version, path, digest, audience, threshold, max_in_flight, time_window, consent,
    state, reason_code, reason_text, created, started, start_order, changed, revision";

pub(crate) fn read(row: &AnyRow) -> Result<RolloutRow, StoreError> {
    let doing = "read a rollout";
    let damaged = |column| StoreError::Damaged { table: "rollouts", column };
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    let optional = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let window: Option<String> = row.try_get("time_window").map_err(cannot(doing))?;
    Ok(RolloutRow {
        id: parsed(row, "id")?.ok_or_else(|| damaged("id"))?,
        number: from_sql(number("number")?),
        wanted: NewRollout {
            name: text("name")?,
            release: parsed(row, "version")?.ok_or_else(|| damaged("version"))?,
            audience: serde_json::from_str(&text("audience")?).map_err(|_| damaged("audience"))?,
            threshold: serde_json::from_str(&text("threshold")?).map_err(|_| damaged("threshold"))?,
            max_in_flight: optional("max_in_flight")?.and_then(|n| u32::try_from(n).ok()),
            window: match window {
                Some(text) => Some(serde_json::from_str(&text).map_err(|_| damaged("time_window"))?),
                None => None,
            },
            consent: Consent::parse(&text("consent")?).ok_or_else(|| damaged("consent"))?,
        },
        path: parsed(row, "path")?.ok_or_else(|| damaged("path"))?,
        digest: parsed(row, "digest")?.ok_or_else(|| damaged("digest"))?,
        state: RolloutState::parse(&text("state")?).ok_or_else(|| damaged("state"))?,
        reason: read_reason(row, "reason_code", "reason_text")?,
        created: time(number("created")?),
        started: optional("started")?.map(time),
        start_order: optional("start_order")?.map(from_sql),
        changed: time(number("changed")?),
        revision: number("revision")?,
    })
}

/// What a person asks of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutAction {
    /// Begin to offer the release.
    Start,
    /// Offer nothing new for now.
    Pause,
    /// Go on after a pause.
    Resume,
    /// End it.
    Abort,
}

impl RolloutAction {
    /// The state that the action leads to, where it may be asked for; asking for what is already so is allowed.
    fn outcome(self, from: RolloutState) -> Option<RolloutState> {
        match (self, from) {
            (Self::Start, RolloutState::Draft | RolloutState::Running) => Some(RolloutState::Running),
            (Self::Pause, RolloutState::Running | RolloutState::Paused) => Some(RolloutState::Paused),
            (Self::Resume, RolloutState::Paused | RolloutState::Running) => Some(RolloutState::Running),
            (
                Self::Abort,
                RolloutState::Draft | RolloutState::Running | RolloutState::Paused | RolloutState::Aborted,
            ) => Some(RolloutState::Aborted),
            (Self::Start, RolloutState::Paused)
            | (Self::Pause | Self::Resume, RolloutState::Draft)
            | (_, RolloutState::Stopped | RolloutState::Finished)
            | (Self::Start | Self::Pause | Self::Resume, RolloutState::Aborted) => None,
        }
    }

    const fn event(self) -> &'static str {
        match self {
            Self::Start => "rollout.started",
            Self::Pause => "rollout.paused",
            Self::Resume => "rollout.resumed",
            Self::Abort => "rollout.aborted",
        }
    }
}

fn no_rollout(id: &RolloutId) -> StoreError {
    StoreError::NotFound { kind: "rollout", id: id.to_string() }
}

/// The next number of a counter of the account.
async fn count(tx: &mut Transaction, scope: &AccountScope, name: &str) -> Result<i64, StoreError> {
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

impl AccountScope {
    /// Makes a rollout of a listed release. Nothing happens on any device before [`RolloutAction::Start`].
    pub async fn create_rollout(
        &self,
        wanted: &NewRollout,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<RolloutRow, StoreError> {
        let release = self.release(&wanted.release).await?;
        if !release.listed {
            let state = "no longer listed in the targets".to_owned();
            return Err(StoreError::WrongState { kind: "release", id: wanted.release.to_string(), state });
        }
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
        self.insert_rollout(&mut tx, (&id, number), (wanted, &release), now).await?;
        let data = json!({ "release": wanted.release, "name": wanted.name });
        let draft = EventDraft { kind: "rollout.created", subject: format!("rollouts/{id}"), data };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.rollout(&id).await
    }

    async fn insert_rollout(
        &self,
        tx: &mut Transaction,
        (id, number): (&RolloutId, i64),
        (wanted, release): (&NewRollout, &crate::ReleaseRow),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "make a rollout";
        // These three are plain data, so they always have a JSON form.
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        sqlx::query(
            "INSERT INTO rollouts (account, id, number, name, version, path, digest, audience, threshold, max_in_flight,
                                   time_window, consent, state, created, changed, revision)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'draft', $13, $13, 1)",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(number)
        .bind(wanted.name.as_str())
        .bind(wanted.release.to_string())
        .bind(release.path.as_str())
        .bind(release.digest.to_string())
        .bind(json(serde_json::to_string(&wanted.audience)))
        .bind(json(serde_json::to_string(&wanted.threshold)))
        .bind(wanted.max_in_flight.map(i64::from))
        .bind(wanted.window.map(|window| json(serde_json::to_string(&window))))
        .bind(wanted.consent.as_str())
        .bind(to_sql(now.0))
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

    /// Does what a person asks of a rollout, if it is at revision `at`; asking for what is already so changes nothing.
    pub async fn act_on_rollout(
        &self,
        id: &RolloutId,
        action: RolloutAction,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<RolloutRow, StoreError> {
        let mut tx = self.write().await?;
        let row = self.rollout_on(tx.sql(), id).await?;
        let stale = || StoreError::Stale { kind: "rollout", id: id.to_string(), now: row.revision };
        if at.is_some_and(|at| at != row.revision) {
            return Err(stale());
        }
        let Some(next) = action.outcome(row.state) else {
            return Err(StoreError::WrongState { kind: "rollout", id: id.to_string(), state: row.state.to_string() });
        };
        if next == row.state {
            return Ok(row);
        }
        self.set_rollout_state(&mut tx, id, (next, None), now).await?;
        if row.start_order.is_none() && action == RolloutAction::Start {
            let order = count(&mut tx, self, "rollout_starts").await?;
            sqlx::query("UPDATE rollouts SET start_order = $3, started = $4 WHERE account = $1 AND id = $2")
                .bind(self.id())
                .bind(id.as_str())
                .bind(order)
                .bind(to_sql(now.0))
                .execute(tx.sql())
                .await
                .map_err(cannot("start a rollout"))?;
        }
        let draft = EventDraft { kind: action.event(), subject: format!("rollouts/{id}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.rollout(id).await
    }

    pub(crate) async fn set_rollout_state(
        &self,
        tx: &mut Transaction,
        id: &RolloutId,
        (state, reason): (RolloutState, Option<&Reason>),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rollouts SET state = $3, reason_code = $4, reason_text = $5, changed = $6, revision = revision + 1
             WHERE account = $1 AND id = $2",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(state.as_str())
        .bind(reason.map(|r| r.code.as_str()))
        .bind(reason.map(|r| r.text.as_str()))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("change a rollout"))?;
        tx.changed(Change::Rollouts(self.account.clone()));
        Ok(())
    }
}
