//! How far each subscription is. A position moves only after the receiver has accepted everything before it, and it moves in one
//! transaction with the dead letter that it passes by, so that a service that dies at any instant loses no event.

use protocol_types::{AccountName, GroupName, UnixSeconds};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row};

use crate::{
    AccountScope, EventDraft, EventRow, ServiceWide, StoreError, SubscriptionRow,
    error::cannot,
    events::{self, subscriptions::no_webhook},
    named::Named,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// A subscription that has something to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueSubscription {
    /// Whose.
    pub account: AccountName,
    /// Which.
    pub name: GroupName,
    /// Nothing is tried before this time.
    pub next_try: UnixSeconds,
    /// Its position.
    pub position: u64,
    /// The newest event of the account.
    pub last_event: u64,
    /// Its revision.
    pub revision: i64,
    /// Whether a dead letter is to be tried once more.
    pub asked: bool,
}

/// What is needed to deliver.
#[derive(Clone)]
pub struct Delivery {
    /// The subscription.
    pub row: SubscriptionRow,
    /// Secrets that sign: the present one and, for some time, the one before.
    pub secrets: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("row", &self.row).finish_non_exhaustive()
    }
}

/// An event that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// Its position.
    pub event: u64,
    /// How often it was tried since somebody last asked.
    pub tries: u32,
    /// Why the last try failed.
    pub reason: String,
    /// When it was given up.
    pub since: UnixSeconds,
    /// When somebody asked for another try that is still to come.
    pub asked: Option<UnixSeconds>,
}

/// A try that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedTry {
    /// Everything before this event was accepted; for a dead letter that was tried again it says nothing.
    pub event: u64,
    /// Tries of this event, this one among them.
    pub tries: u32,
    /// Tries in a row that have failed, this one among them.
    pub failures: u32,
    /// Why, in one sentence.
    pub reason: String,
    /// Before this time nothing is tried.
    pub next_try: UnixSeconds,
    /// What becomes of the event.
    pub then: AfterFailure,
}

/// What becomes of an event that was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// It is tried again.
    Retry,
    /// It becomes a dead letter, and the one after it has its turn.
    DeadLetter,
    /// Nothing more is sent until somebody says so.
    Pause,
}

impl ServiceWide {
    /// The webhooks that have something to deliver, now or later, the longest due first.
    pub async fn due_subscriptions(&self) -> Result<Vec<DueSubscription>, StoreError> {
        let doing = "look for events to deliver";
        let rows = sqlx::query(
            "SELECT q.account, q.name, q.next_try, q.position, q.last_event, q.revision, q.asked FROM (
                 SELECT s.account, s.name, s.next_try, s.position, a.last_event, s.revision,
                     (SELECT COUNT(*) FROM dead_letters x WHERE x.account = s.account AND x.subscription = s.name
                      AND x.asked IS NOT NULL) AS asked
                 FROM subscriptions s JOIN accounts a ON a.name = s.account
                 WHERE s.url IS NOT NULL AND s.paused IS NULL) q
             WHERE q.position < q.last_event OR q.asked > 0 ORDER BY q.next_try, q.account, q.name",
        )
        .fetch_all(self.store.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
                Ok(DueSubscription {
                    account: formed(row, doing, ("subscriptions", "account"))?,
                    name: formed(row, doing, ("subscriptions", "name"))?,
                    next_try: time(number("next_try")?),
                    position: from_sql(number("position")?),
                    last_event: from_sql(number("last_event")?),
                    revision: number("revision")?,
                    asked: number("asked")? > 0,
                })
            })
            .collect()
    }
}

impl AccountScope {
    /// What is needed to deliver for a subscription; `None` if it was deleted, is paused, or is sent nowhere.
    pub async fn delivery(&self, name: &GroupName, now: UnixSeconds) -> Result<Option<Delivery>, StoreError> {
        let doing = "read a subscription";
        let sql = format!(
            "SELECT {}, s.secret, s.former_secret FROM {}
             WHERE s.account = $1 AND s.name = $2 AND s.url IS NOT NULL AND s.paused IS NULL",
            SubscriptionRow::COLUMNS,
            SubscriptionRow::FROM
        );
        let found = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(name.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        let Some(found) = found else { return Ok(None) };
        let secret = |column| found.try_get::<Option<Vec<u8>>, _>(column).map_err(cannot(doing));
        let row = SubscriptionRow::read(&found)?;
        let former = if row.former_until > now { secret("former_secret")? } else { None };
        Ok(Some(Delivery { row, secrets: secret("secret")?.into_iter().chain(former).collect() }))
    }

    /// Notes that everything up to `through` was accepted or is not wanted. Answers whether the subscription is still at `revision`; if
    /// it is not, somebody has changed it meanwhile and nothing is noted. Those that were not served as recently have their turn first.
    pub async fn delivered(
        &self,
        name: &GroupName,
        revision: i64,
        through: u64,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let mut tx = self.store.write().await?;
        let done = sqlx::query(
            "UPDATE subscriptions SET position = $4, tries = 0, failures = 0, next_try = $5, last_failure = NULL
             WHERE account = $1 AND name = $2 AND revision = $3",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(revision)
        .bind(to_sql(through))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("move the position of a subscription"))?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes a try that failed, and what becomes of the event, if the subscription is still at `revision`.
    pub async fn delivery_failed(
        &self,
        name: &GroupName,
        revision: i64,
        failed: &FailedTry,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let is_dead = failed.then == AfterFailure::DeadLetter;
        let paused = (failed.then == AfterFailure::Pause).then(|| failed.reason.clone());
        let mut tx = self.store.write().await?;
        let done = sqlx::query(
            "UPDATE subscriptions SET position = $4, tries = $5, failures = $6, next_try = $7, last_failure = $8,
                 paused = COALESCE($9, paused)
             WHERE account = $1 AND name = $2 AND revision = $3",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(revision)
        .bind(to_sql(if is_dead { failed.event } else { failed.event.saturating_sub(1) }))
        .bind(if is_dead { 0 } else { i64::from(failed.tries) })
        .bind(i64::from(failed.failures))
        .bind(to_sql(failed.next_try.0))
        .bind(failed.reason.as_str())
        .bind(paused)
        .execute(tx.sql())
        .await
        .map_err(cannot("note a failed delivery"))?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        match failed.then {
            AfterFailure::Retry => {}
            AfterFailure::DeadLetter => self.bury(&mut tx, name, failed, now).await?,
            AfterFailure::Pause => {
                self.tell_named::<SubscriptionRow>(&mut tx, (name, "paused"), json!({}), now).await?
            }
        }
        tx.commit().await
    }

    async fn bury(
        &self,
        tx: &mut Transaction,
        name: &GroupName,
        failed: &FailedTry,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "keep a dead letter";
        sqlx::query(
            "INSERT INTO dead_letters (account, subscription, event, tries, reason, since) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (account, subscription, event)
             DO UPDATE SET tries = excluded.tries, reason = excluded.reason, since = excluded.since, asked = NULL",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(to_sql(failed.event))
        .bind(i64::from(failed.tries))
        .bind(failed.reason.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let event = self.event_on(tx, failed.event).await?;
        // What a subscription has to say of itself must not become the next thing that it cannot deliver.
        if event.kind.starts_with("subscription.") {
            return Ok(());
        }
        let data = json!({ "event": failed.event.to_string(), "tries": failed.tries, "reason": failed.reason });
        let draft = EventDraft { kind: "subscription.dead_letter", subject: format!("subscriptions/{name}"), data };
        events::append(tx, self, now, draft).await
    }

    /// At most `limit` dead letters whose event comes after `after`, oldest first; `asked` for those that are to be tried once more.
    pub async fn dead_letters_after(
        &self,
        name: &GroupName,
        asked: bool,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(DeadLetterRow, EventRow)>, StoreError> {
        let doing = "list dead letters";
        let only = if asked { "AND x.asked IS NOT NULL" } else { "" };
        let sql = format!(
            "SELECT x.event, x.tries, x.reason, x.since, x.asked, e.id, e.time, e.kind, e.subject, e.data
             FROM dead_letters x JOIN events e ON e.account = x.account AND e.id = x.event
             WHERE x.account = $1 AND x.subscription = $2 AND x.event > $3 {only} ORDER BY x.event LIMIT $4"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(name.as_str())
            .bind(to_sql(after))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
                let letter = DeadLetterRow {
                    event: number("event")?,
                    tries: u32::try_from(number("tries")?).unwrap_or(u32::MAX),
                    reason: row.try_get("reason").map_err(cannot(doing))?,
                    since: UnixSeconds(number("since")?),
                    asked: row.try_get::<Option<i64>, _>("asked").map_err(cannot(doing))?.map(time),
                };
                Ok((letter, events::read(row)?))
            })
            .collect()
    }

    /// Notes that a dead letter was accepted after all.
    pub async fn dead_letter_delivered(&self, name: &GroupName, event: u64) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        sqlx::query("DELETE FROM dead_letters WHERE account = $1 AND subscription = $2 AND event = $3")
            .bind(self.id())
            .bind(name.as_str())
            .bind(to_sql(event))
            .execute(tx.sql())
            .await
            .map_err(cannot("forget a dead letter"))?;
        sqlx::query(
            "UPDATE subscriptions SET failures = 0, next_try = 0, last_failure = NULL WHERE account = $1 AND name = $2",
        )
        .bind(self.id())
        .bind(name.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot("forget a dead letter"))?;
        tx.commit().await
    }

    /// Notes that a dead letter was tried once more and not accepted, if the subscription is still at `revision`: a failure at an address
    /// that somebody has changed since says nothing.
    pub async fn dead_letter_failed(
        &self,
        name: &GroupName,
        revision: i64,
        failed: &FailedTry,
    ) -> Result<(), StoreError> {
        let doing = "note a failed delivery";
        let mut tx = self.store.write().await?;
        let noted = sqlx::query(
            "UPDATE subscriptions SET failures = $4, next_try = $5, last_failure = $6, paused = COALESCE($7, paused)
             WHERE account = $1 AND name = $2 AND revision = $3",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(revision)
        .bind(i64::from(failed.failures))
        .bind(to_sql(failed.next_try.0))
        .bind(failed.reason.as_str())
        .bind((failed.then == AfterFailure::Pause).then(|| failed.reason.clone()))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if noted.rows_affected() == 0 {
            return Ok(());
        }
        sqlx::query(
            "UPDATE dead_letters SET tries = $4, reason = $5, asked = CASE $6 WHEN 1 THEN asked ELSE NULL END
             WHERE account = $1 AND subscription = $2 AND event = $3",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(to_sql(failed.event))
        .bind(i64::from(failed.tries))
        .bind(failed.reason.as_str())
        .bind(i64::from(failed.then == AfterFailure::Retry))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        tx.commit().await
    }

    /// Lets a subscription begin again after position `after`, or try dead letters once more; both at once if both are named.
    pub async fn replay_events(
        &self,
        name: &GroupName,
        (after, dead_letters): (Option<u64>, &[u64]),
        now: UnixSeconds,
    ) -> Result<SubscriptionRow, StoreError> {
        let doing = "replay events";
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE subscriptions SET revision = revision + 1, tries = 0, failures = 0, next_try = 0,
                 position = CASE WHEN CAST($3 AS BIGINT) < 0 THEN position ELSE CAST($3 AS BIGINT) END
             WHERE account = $1 AND name = $2
             RETURNING url, position, (SELECT last_event FROM accounts WHERE accounts.name = $1) AS last",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(after.map_or(-1, to_sql))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?
        .ok_or_else(|| SubscriptionRow::missing(name))?;
        let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        if number("position")? > number("last")? {
            return Err(ahead(name, number("last")?));
        }
        if !dead_letters.is_empty() && row.try_get::<Option<String>, _>("url").map_err(cannot(doing))?.is_none() {
            return Err(no_webhook(name));
        }
        for event in dead_letters {
            let asked = sqlx::query(
                "UPDATE dead_letters SET asked = $4, tries = 0 WHERE account = $1 AND subscription = $2 AND event = $3",
            )
            .bind(self.id())
            .bind(name.as_str())
            .bind(to_sql(*event))
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
            if asked.rows_affected() == 0 {
                return Err(StoreError::NotFound { kind: "dead letter", id: event.to_string() });
            }
        }
        self.tell_named::<SubscriptionRow>(&mut tx, (name, "replayed"), json!({}), now).await?;
        tx.commit().await?;
        self.subscription(name).await
    }

    /// Moves the position of a subscription that is read and not sent; never back. The reader's place is no change of the account, so the
    /// audit log does not tell it.
    pub async fn acknowledge_events(&self, name: &GroupName, position: u64) -> Result<SubscriptionRow, StoreError> {
        let doing = "acknowledge events";
        let before = self.subscription(name).await?;
        if before.url.is_some() {
            let state = "sent to its webhook, whose answers acknowledge".to_owned();
            return Err(StoreError::WrongState { kind: "subscription", id: name.to_string(), state });
        }
        let last = self.last_event().await?;
        if position > last {
            return Err(ahead(name, last));
        }
        let mut tx = self.store.write().await?;
        sqlx::query("UPDATE subscriptions SET position = $3 WHERE account = $1 AND name = $2 AND position < $3")
            .bind(self.id())
            .bind(name.as_str())
            .bind(to_sql(position))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        tx.commit().await?;
        self.subscription(name).await
    }

    async fn event_on(&self, tx: &mut Transaction, id: u64) -> Result<EventRow, StoreError> {
        let row = sqlx::query("SELECT id, time, kind, subject, data FROM events WHERE account = $1 AND id = $2")
            .bind(self.id())
            .bind(to_sql(id))
            .fetch_one(tx.sql())
            .await
            .map_err(cannot("read an event"))?;
        events::read(&row)
    }
}

fn ahead(name: &GroupName, last: u64) -> StoreError {
    let state = format!("at no position after event {last}, the newest there is");
    StoreError::WrongState { kind: "subscription", id: name.to_string(), state }
}
