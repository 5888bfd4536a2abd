//! Subscriptions: independent streams of an account's events, each with its own position. Never moves a position; `deliveries` does.

use protocol_types::{GroupName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventSelection, Filter, RequestKey, StoreError,
    error::cannot,
    events::selection::EventKinds,
    idempotency,
    named::Named,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Most subscriptions of an account.
const MAX_SUBSCRIPTIONS: u64 = 32;

/// A stream of events.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionRow {
    /// Its name, by the rule of groups' names.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// Which events are in it.
    pub wanted: EventSelection,
    /// Where its events are sent; without it, somebody reads and acknowledges.
    pub url: Option<String>,
    /// Every event up to this one was accepted, was not wanted, or is a dead letter.
    pub position: u64,
    /// Why nothing is delivered at the moment.
    pub paused: Option<String>,
    /// How often the event after the position was tried.
    pub tries: u32,
    /// How many tries in a row have failed.
    pub failures: u32,
    /// Before this time nothing is tried.
    pub next_try: UnixSeconds,
    /// Why the last try failed, if it did.
    pub last_failure: Option<String>,
    /// How many dead letters it has.
    pub dead_letters: u64,
    /// Until when the former secret signs, too.
    pub former_until: UnixSeconds,
    /// When it was made.
    pub created: UnixSeconds,
    /// Counts every change that a person makes.
    pub revision: i64,
}

/// A subscription to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSubscription {
    /// Its name.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// Which events.
    pub wanted: EventSelection,
    /// Where they are sent, and the secret that signs them.
    pub webhook: Option<(String, Vec<u8>)>,
    /// The events after this position; without it, those from now on.
    pub after: Option<u64>,
}

/// What to change of a subscription; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionChange {
    /// What people call it.
    pub title: Option<String>,
    /// Which kinds of events.
    pub kinds: Option<EventKinds>,
    /// About which devices.
    pub filter: Option<Filter>,
    /// Where they are sent.
    pub url: Option<String>,
    /// Whether it rests.
    pub paused: Option<bool>,
}

/// Why nothing is delivered after a person has said so.
const BY_A_PERSON: &str = "somebody has paused it";

impl Named for SubscriptionRow {
    const KIND: &'static str = "subscription";
    const DOING: &'static str = "look after subscriptions";
    const FROM: &'static str = "subscriptions AS s";
    const COLUMNS: &'static str =
        "s.name, s.title, s.kinds, s.filter, s.url, s.position, s.paused, s.tries, s.failures, s.next_try,
        s.last_failure, s.former_until, s.created, s.revision,
        (SELECT COUNT(*) FROM dead_letters x WHERE x.account = s.account AND x.subscription = s.name) AS dead";
    const EVENT: &'static str = "subscription";
    const PATH: &'static str = "subscriptions";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = "read a subscription";
        let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        let optional = |column| row.try_get::<Option<String>, _>(column).map_err(cannot(doing));
        let count = |column| number(column).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Ok(Self {
            name: formed(row, doing, ("subscriptions", "name"))?,
            title: row.try_get("title").map_err(cannot(doing))?,
            wanted: EventSelection {
                kinds: formed(row, doing, ("subscriptions", "kinds"))?,
                filter: formed(row, doing, ("subscriptions", "filter"))?,
            },
            url: optional("url")?,
            position: number("position")?,
            paused: optional("paused")?,
            tries: count("tries")?,
            failures: count("failures")?,
            next_try: UnixSeconds(number("next_try")?),
            last_failure: optional("last_failure")?,
            dead_letters: number("dead")?,
            former_until: UnixSeconds(number("former_until")?),
            created: time(row.try_get("created").map_err(cannot(doing))?),
            revision: row.try_get("revision").map_err(cannot(doing))?,
        })
    }
}

impl AccountScope {
    /// Makes a subscription. With a key that was used before nothing is made and the earlier one is the answer; whether this request made
    /// it stands beside.
    pub async fn create_subscription(
        &self,
        wanted: &NewSubscription,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<(SubscriptionRow, bool), StoreError> {
        let mut tx = self.write().await?;
        let is_new = idempotency::claim(&mut tx, self, key, wanted.name.as_str(), now).await?.is_none();
        if is_new {
            self.insert_subscription(&mut tx, wanted, now).await?;
            self.tell_named::<SubscriptionRow>(&mut tx, (&wanted.name, "created"), json!({}), now).await?;
        }
        tx.commit().await?;
        Ok((self.subscription(&wanted.name).await?, is_new))
    }

    async fn insert_subscription(
        &self,
        tx: &mut Transaction,
        wanted: &NewSubscription,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "make a subscription";
        self.has_room_for::<SubscriptionRow>(tx, "subscriptions in an account", MAX_SUBSCRIPTIONS).await?;
        let row = sqlx::query("SELECT last_event FROM accounts WHERE name = $1")
            .bind(self.id())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let last = from_sql(row.try_get("last_event").map_err(cannot(doing))?);
        // A filter whose groups stand for too many tests is refused now and not at the first event.
        self.resolved(tx.sql(), &wanted.wanted.filter).await?;
        let (url, secret) = wanted.webhook.as_ref().map(|(url, secret)| (url.as_str(), secret.as_slice())).unzip();
        let made = sqlx::query(
            "INSERT INTO subscriptions (account, name, title, kinds, filter, url, secret, position, created, revision)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1) ON CONFLICT (account, name) DO NOTHING",
        )
        .bind(self.id())
        .bind(wanted.name.as_str())
        .bind(wanted.title.as_str())
        .bind(wanted.wanted.kinds.to_string())
        .bind(wanted.wanted.filter.as_str())
        .bind(url)
        .bind(secret)
        .bind(to_sql(wanted.after.unwrap_or(last).min(last)))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if made.rows_affected() == 0 {
            return Err(SubscriptionRow::exists(&wanted.name));
        }
        Ok(())
    }

    /// One subscription.
    pub async fn subscription(&self, name: &GroupName) -> Result<SubscriptionRow, StoreError> {
        self.named(name).await
    }

    /// At most `limit` subscriptions whose name comes after `after`.
    pub async fn subscriptions_after(&self, after: &str, limit: u32) -> Result<Vec<SubscriptionRow>, StoreError> {
        self.named_after(after, limit).await
    }

    /// Changes a subscription, if it is still at the revision `at`. Another address, or the end of a pause, makes it try at once.
    pub async fn change_subscription(
        &self,
        name: &GroupName,
        change: &SubscriptionChange,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<SubscriptionRow, StoreError> {
        let doing = "change a subscription";
        let mut tx = self.write().await?;
        let afresh = change.url.is_some() || change.paused == Some(false);
        let row = sqlx::query(
            "UPDATE subscriptions SET revision = revision + 1, title = COALESCE($3, title), kinds = COALESCE($4, kinds),
                 filter = COALESCE($5, filter), url = CASE WHEN url IS NULL THEN NULL ELSE COALESCE($6, url) END,
                 paused = CASE $7 WHEN 1 THEN $8 WHEN 0 THEN NULL ELSE paused END,
                 next_try = CASE $9 WHEN 1 THEN 0 ELSE next_try END, failures = CASE $9 WHEN 1 THEN 0 ELSE failures END,
                 tries = CASE $9 WHEN 1 THEN 0 ELSE tries END
             WHERE account = $1 AND name = $2 RETURNING revision, url",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(change.title.as_deref())
        .bind(change.kinds.as_ref().map(ToString::to_string))
        .bind(change.filter.as_ref().map(Filter::as_str))
        .bind(change.url.as_deref())
        .bind(change.paused.map_or(-1, i64::from))
        .bind(BY_A_PERSON)
        .bind(i64::from(afresh))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let row = SubscriptionRow::changed(row, name, at)?;
        if change.url.is_some() && row.try_get::<Option<String>, _>("url").map_err(cannot(doing))?.is_none() {
            let state = "read by its reader and sent nowhere; make another one with an address".to_owned();
            return Err(StoreError::WrongState { kind: "subscription", id: name.to_string(), state });
        }
        if let Some(filter) = &change.filter {
            self.resolved(tx.sql(), filter).await?;
        }
        self.tell_named::<SubscriptionRow>(&mut tx, (name, "changed"), json!({}), now).await?;
        tx.commit().await?;
        self.subscription(name).await
    }

    /// Forgets a subscription, its position and its dead letters, if it is still at the revision `at`.
    pub async fn delete_subscription(
        &self,
        name: &GroupName,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.forget_named::<SubscriptionRow>(&mut tx, name, at).await?;
        self.tell_named::<SubscriptionRow>(&mut tx, (name, "deleted"), json!({}), now).await?;
        tx.commit().await
    }

    /// Gives a webhook another secret; the one that it had signs, too, until `former_until`.
    pub async fn rotate_subscription_secret(
        &self,
        name: &GroupName,
        secret: &[u8],
        former_until: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<SubscriptionRow, StoreError> {
        let doing = "change the secret of a subscription";
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE subscriptions SET revision = revision + 1, former_secret = secret, former_until = $4, secret = $3
             WHERE account = $1 AND name = $2 RETURNING url",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(secret)
        .bind(to_sql(former_until.0))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?
        .ok_or_else(|| SubscriptionRow::missing(name))?;
        let url: Option<String> = row.try_get("url").map_err(cannot(doing))?;
        if url.is_none_or(|url| !url.starts_with("http")) {
            return Err(no_webhook(name));
        }
        self.tell_named::<SubscriptionRow>(&mut tx, (name, "secret_rotated"), json!({}), now).await?;
        tx.commit().await?;
        self.subscription(name).await
    }
}

pub(crate) fn no_webhook(name: &GroupName) -> StoreError {
    let state = "sent to no webhook, so nothing of it is signed or waits as a dead letter".to_owned();
    StoreError::WrongState { kind: "subscription", id: name.to_string(), state }
}
