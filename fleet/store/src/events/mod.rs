//! What happened in an account: an append-only list with increasing numbers, written together with the change itself.

pub(crate) mod audit;
pub(crate) mod deliveries;
pub(crate) mod selection;
pub(crate) mod subscriptions;

#[cfg(test)]
mod subscription_tests;

use protocol_types::{EndpointName, UnixSeconds};
use serde_json::Value;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Change, StoreError,
    error::cannot,
    numbers::{from_sql, time, to_sql},
    transaction::Transaction,
};

/// An event to append.
#[derive(Clone, Debug, PartialEq)]
pub struct EventDraft<'a> {
    /// What kind, as in `rollout.started`.
    pub kind: &'a str,
    /// What it is about, as in `rollouts/r1` or `devices/gate-42`.
    pub subject: String,
    /// Details; a JSON object.
    pub data: Value,
}

/// An event that was appended.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Position in the account: 1, 2, 3 and so on.
    pub id: u64,
    /// When.
    pub time: UnixSeconds,
    /// What kind.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// Details.
    pub data: Value,
}

/// Appends an event to the account in the same transaction as the change that it tells.
pub(crate) async fn append(
    tx: &mut Transaction,
    scope: &AccountScope,
    now: UnixSeconds,
    draft: EventDraft<'_>,
) -> Result<(), StoreError> {
    let doing = "append an event";
    tx.note(draft.kind, &draft.subject, &draft.data);
    let row = sqlx::query("UPDATE accounts SET last_event = last_event + 1 WHERE name = $1 RETURNING last_event")
        .bind(scope.id())
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
    let id: i64 = row.try_get("last_event").map_err(cannot(doing))?;
    let device = device_of(&draft.subject).map(str::to_owned);
    sqlx::query(
        "INSERT INTO events (account, id, time, kind, subject, data, device) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(scope.id())
    .bind(id)
    .bind(to_sql(now.0))
    .bind(draft.kind)
    .bind(draft.subject)
    .bind(draft.data.to_string())
    .bind(device)
    .execute(tx.sql())
    .await
    .map_err(cannot(doing))?;
    tx.changed(Change::Event(scope.account.clone()));
    Ok(())
}

/// The device that an event is about, by its subject: `devices/gate-42` or `rollouts/r-1/devices/gate-42`.
fn device_of(subject: &str) -> Option<&str> {
    let (before, device) = subject.rsplit_once("devices/")?;
    (before.is_empty() || before.ends_with('/')).then_some(device)
}

pub(crate) fn read(row: &AnyRow) -> Result<EventRow, StoreError> {
    let doing = "read events";
    let data: String = row.try_get("data").map_err(cannot(doing))?;
    Ok(EventRow {
        id: from_sql(row.try_get("id").map_err(cannot(doing))?),
        time: time(row.try_get("time").map_err(cannot(doing))?),
        kind: row.try_get("kind").map_err(cannot(doing))?,
        subject: row.try_get("subject").map_err(cannot(doing))?,
        data: serde_json::from_str(&data).map_err(|_| StoreError::Damaged { table: "events", column: "data" })?,
    })
}

impl AccountScope {
    /// At most `limit` events about a device, the newest first, before position `before`. They stay when the device is deleted.
    pub async fn device_history(
        &self,
        endpoint: &EndpointName,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, time, kind, subject, data FROM events
             WHERE account = $1 AND device = $2 AND id < $3 ORDER BY id DESC LIMIT $4",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(before.map_or(i64::MAX, to_sql))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("read the history of a device"))?;
        rows.iter().map(read).collect()
    }

    /// At most `limit` events after position `after`, oldest first.
    pub async fn events_after(&self, after: u64, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        let doing = "read events";
        let rows = sqlx::query(
            "SELECT id, time, kind, subject, data FROM events WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(self.id())
        .bind(to_sql(after))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter().map(read).collect()
    }

    /// Position of the newest event; zero if nothing happened yet.
    pub async fn last_event(&self) -> Result<u64, StoreError> {
        let doing = "read the newest event";
        let row = sqlx::query("SELECT last_event FROM accounts WHERE name = $1")
            .bind(self.id())
            .fetch_one(self.readers())
            .await
            .map_err(cannot(doing))?;
        Ok(from_sql(row.try_get("last_event").map_err(cannot(doing))?))
    }
}
