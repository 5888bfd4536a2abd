//! Enrolments and denials: which devices may join an account, and which were turned away.

pub(crate) mod admission;
pub(crate) mod authorities;
pub(crate) mod device_certificates;
pub(crate) mod list;
pub(crate) mod listed_certificates;
pub(crate) mod registrations;

#[cfg(test)]
mod registration_tests;

use protocol_types::{EndpointName, ReasonCode, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, StoreError,
    error::cannot,
    events,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// What an enrolment allows: this endpoint, certificates of this authority, or both at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnrolmentRule {
    /// This endpoint with a certificate of any authority of the account.
    Endpoint(EndpointName),
    /// Every certificate of this authority.
    Authority(String),
    /// This endpoint with a certificate of this authority.
    EndpointOfAuthority(EndpointName, String),
}

impl EnrolmentRule {
    /// A rule from its two parts; `None` if both are missing.
    pub fn new(endpoint: Option<EndpointName>, authority: Option<String>) -> Option<Self> {
        match (endpoint, authority) {
            (Some(endpoint), Some(authority)) => Some(Self::EndpointOfAuthority(endpoint, authority)),
            (Some(endpoint), None) => Some(Self::Endpoint(endpoint)),
            (None, Some(authority)) => Some(Self::Authority(authority)),
            (None, None) => None,
        }
    }

    /// The endpoint that it names.
    pub const fn endpoint(&self) -> Option<&EndpointName> {
        match self {
            Self::Endpoint(endpoint) | Self::EndpointOfAuthority(endpoint, _) => Some(endpoint),
            Self::Authority(_) => None,
        }
    }

    /// The authority that it names.
    pub fn authority(&self) -> Option<&str> {
        match self {
            Self::Authority(authority) | Self::EndpointOfAuthority(_, authority) => Some(authority),
            Self::Endpoint(_) => None,
        }
    }
}

/// An enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentRow {
    /// Its id: `en-` and a number.
    pub id: String,
    /// What it allows.
    pub rule: EnrolmentRule,
    /// When it was made.
    pub created: UnixSeconds,
    /// Its place in the list.
    pub number: u64,
}

/// A device that proved its identity and was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialRow {
    /// The device.
    pub endpoint: EndpointName,
    /// What it was told.
    pub reason: String,
    /// First time.
    pub first: UnixSeconds,
    /// Last time.
    pub last: UnixSeconds,
    /// How often.
    pub attempts: u64,
}

/// Denials of an account that are kept.
const MAX_DENIALS: i64 = 1000;
/// For so many seconds after its last knock a denial makes no room for another one: however many devices take turns, each of those that
/// are kept is told of once.
const DENIAL_STAYS: u64 = 24 * 60 * 60;

fn read(row: &AnyRow) -> Result<EnrolmentRow, StoreError> {
    let doing = "read an enrolment";
    let damaged = |column| StoreError::Damaged { table: "enrolments", column };
    let endpoint: Option<String> = row.try_get("endpoint").map_err(cannot(doing))?;
    let endpoint = endpoint.map(EndpointName::new).transpose().map_err(|_| damaged("endpoint"))?;
    let authority = row.try_get("authority").map_err(cannot(doing))?;
    Ok(EnrolmentRow {
        id: row.try_get("id").map_err(cannot(doing))?,
        rule: EnrolmentRule::new(endpoint, authority).ok_or_else(|| damaged("authority"))?,
        created: time(row.try_get("created").map_err(cannot(doing))?),
        number: from_sql(row.try_get("number").map_err(cannot(doing))?),
    })
}

impl AccountScope {
    /// Makes an enrolment; the same rule a second time gives the one that is there.
    pub async fn add_enrolment(&self, rule: &EnrolmentRule, now: UnixSeconds) -> Result<EnrolmentRow, StoreError> {
        let doing = "make an enrolment";
        let (endpoint, authority) = (rule.endpoint().map(EndpointName::as_str), rule.authority());
        let mut tx = self.write().await?;
        if let Some(id) = authority {
            let known = sqlx::query("SELECT 1 FROM authorities WHERE account = $1 AND id = $2 AND revoked IS NULL")
                .bind(self.id())
                .bind(id)
                .fetch_optional(tx.sql())
                .await
                .map_err(cannot(doing))?;
            if known.is_none() {
                return Err(StoreError::NotFound { kind: "authority", id: id.to_owned() });
            }
        }
        let same = sqlx::query(
            "SELECT id, number, endpoint, authority, created FROM enrolments
             WHERE account = $1 AND COALESCE(endpoint, '') = $2 AND COALESCE(authority, '') = $3",
        )
        .bind(self.id())
        .bind(endpoint.unwrap_or_default())
        .bind(authority.unwrap_or_default())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if let Some(row) = same {
            return read(&row);
        }
        let last = sqlx::query("SELECT value FROM counters WHERE account = $1 AND name = 'enrolments'")
            .bind(self.id())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let last = last.map(|row| row.try_get::<i64, _>("value")).transpose().map_err(cannot(doing))?;
        let number = last.unwrap_or_default() + 1;
        sqlx::query(
            "INSERT INTO counters (account, name, value) VALUES ($1, 'enrolments', $2)
             ON CONFLICT (account, name) DO UPDATE SET value = excluded.value",
        )
        .bind(self.id())
        .bind(number)
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let id = format!("en-{number}");
        sqlx::query(
            "INSERT INTO enrolments (account, id, number, endpoint, authority, created) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(number)
        .bind(endpoint)
        .bind(authority)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let data = json!({ "endpoint": endpoint, "authority": authority });
        let draft = EventDraft { kind: "enrolment.created", subject: format!("enrolments/{id}"), data };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.enrolment(&id).await
    }

    /// One enrolment.
    pub async fn enrolment(&self, id: &str) -> Result<EnrolmentRow, StoreError> {
        let row = sqlx::query(
            "SELECT id, number, endpoint, authority, created FROM enrolments WHERE account = $1 AND id = $2",
        )
        .bind(self.id())
        .bind(id)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read an enrolment"))?;
        row.as_ref().map_or_else(|| Err(StoreError::NotFound { kind: "enrolment", id: id.to_owned() }), read)
    }

    /// At most `limit` enrolments after number `after`.
    pub async fn enrolments_after(&self, after: u64, limit: u32) -> Result<Vec<EnrolmentRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, number, endpoint, authority, created FROM enrolments
             WHERE account = $1 AND number > $2 ORDER BY number LIMIT $3",
        )
        .bind(self.id())
        .bind(to_sql(after))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list enrolments"))?;
        rows.iter().map(read).collect()
    }

    /// Takes an enrolment away.
    pub async fn delete_enrolment(&self, id: &str, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM enrolments WHERE account = $1 AND id = $2")
            .bind(self.id())
            .bind(id)
            .execute(tx.sql())
            .await
            .map_err(cannot("delete an enrolment"))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "enrolment", id: id.to_owned() });
        }
        let draft = EventDraft { kind: "enrolment.deleted", subject: format!("enrolments/{id}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await
    }

    /// At most `limit` denials, the most recent first, after the one of `before` (its last time and endpoint).
    pub async fn denials_before(
        &self,
        before: Option<(UnixSeconds, &str)>,
        limit: u32,
    ) -> Result<Vec<DenialRow>, StoreError> {
        let doing = "list denials";
        let (last, endpoint) = before.map_or((i64::MAX, ""), |(last, endpoint)| (to_sql(last.0), endpoint));
        let rows = sqlx::query(
            "SELECT endpoint, reason, first_time, last_time, attempts FROM denials
             WHERE account = $1 AND (last_time < $2 OR (last_time = $2 AND endpoint || ' ' || reason > $3))
             ORDER BY last_time DESC, endpoint || ' ' || reason LIMIT $4",
        )
        .bind(self.id())
        .bind(last)
        .bind(endpoint)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                Ok(DenialRow {
                    endpoint: formed(row, doing, ("denials", "endpoint"))?,
                    reason: row.try_get("reason").map_err(cannot(doing))?,
                    first: time(row.try_get("first_time").map_err(cannot(doing))?),
                    last: time(row.try_get("last_time").map_err(cannot(doing))?),
                    attempts: from_sql(row.try_get("attempts").map_err(cannot(doing))?),
                })
            })
            .collect()
    }
}

/// Notes that a device was turned away; the first time for a reason is an event, repetitions only count. Where no place is left, nothing
/// is noted.
pub(crate) async fn note_denial(
    tx: &mut Transaction,
    scope: &AccountScope,
    (endpoint, reason): (&EndpointName, ReasonCode),
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let doing = "note a denial";
    let again = sqlx::query(
        "UPDATE denials SET last_time = $4, attempts = attempts + 1 WHERE account = $1 AND endpoint = $2 AND reason = $3",
    )
    .bind(scope.id())
    .bind(endpoint.as_str())
    .bind(reason.as_str())
    .bind(to_sql(now.0))
    .execute(tx.sql())
    .await
    .map_err(cannot(doing))?;
    if again.rows_affected() > 0 {
        return Ok(());
    }
    if !has_place(tx, scope, now).await? {
        tracing::debug!(
            account = scope.id(), device = %endpoint, reason = reason.as_str(), "no place is left for a denial"
        );
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO denials (account, endpoint, reason, first_time, last_time, attempts) VALUES ($1, $2, $3, $4, $4, 1)",
    )
    .bind(scope.id())
    .bind(endpoint.as_str())
    .bind(reason.as_str())
    .bind(to_sql(now.0))
    .execute(tx.sql())
    .await
    .map_err(cannot(doing))?;
    let data = json!({ "reason": reason.as_str() });
    let draft = EventDraft { kind: "device.denied", subject: format!("devices/{endpoint}"), data };
    events::append(tx, scope, now, draft).await
}

/// Whether there is a place for one more denial; old ones make room.
async fn has_place(tx: &mut Transaction, scope: &AccountScope, now: UnixSeconds) -> Result<bool, StoreError> {
    let doing = "make room for a denial";
    let row = sqlx::query("SELECT COUNT(*) AS kept FROM denials WHERE account = $1")
        .bind(scope.id())
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
    let surplus = row.try_get::<i64, _>("kept").map_err(cannot(doing))? + 1 - MAX_DENIALS;
    if surplus <= 0 {
        return Ok(true);
    }
    let made = sqlx::query(
        "DELETE FROM denials WHERE account = $1 AND (endpoint, reason) IN
             (SELECT endpoint, reason FROM denials WHERE account = $1 AND last_time < $2 ORDER BY last_time LIMIT $3)",
    )
    .bind(scope.id())
    .bind(to_sql(now.0.saturating_sub(DENIAL_STAYS)))
    .bind(surplus)
    .execute(tx.sql())
    .await
    .map_err(cannot(doing))?;
    Ok(made.rows_affected() >= surplus.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FactoryIdentity,
        tests::{Database, NOW},
    };

    #[tokio::test]
    async fn denials_fill_no_table_and_their_pages_follow_each_other() {
        let db = Database::new().await;
        let scope = db.account("one").await;
        // Several devices each second.
        all_knock(&scope, MAX_DENIALS + 5, |n| UnixSeconds(NOW.0 + from_sql(n / 3))).await;
        let (mut seen, mut last) = (Vec::new(), None);
        loop {
            let before = last.as_ref().map(|(time, place): &(UnixSeconds, String)| (*time, place.as_str()));
            let page = scope.denials_before(before, 300).await.unwrap();
            let Some(end) = page.last() else { break };
            last = Some((end.last, format!("{} {}", end.endpoint, end.reason)));
            seen.extend(page.into_iter().map(|denial| denial.endpoint.to_string()));
        }
        let kept = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), kept, "a denial stands on two pages");
        assert_eq!((kept, seen.last().unwrap().as_str()), (1000, "gate-0999"), "whoever came first has a place");
    }

    #[tokio::test]
    async fn devices_that_take_turns_are_told_of_once_however_many_they_are() {
        let db = Database::new().await;
        let scope = db.account("one").await;
        let told = async || {
            let events = scope.events_after(0, 5000).await.unwrap();
            events.iter().filter(|event| event.kind == "device.denied").count()
        };
        for turn in 0..3 {
            all_knock(&scope, MAX_DENIALS + 5, |_| UnixSeconds(NOW.0 + turn * 3600)).await;
        }
        assert_eq!(told().await, 1000);
        // The others come back the next day, when the places of those that stay away are free.
        let late = UnixSeconds(NOW.0 + 2 * 3600 + DENIAL_STAYS + 1);
        all_knock(&scope, 7, |_| late).await;
        let mut tx = scope.write().await.unwrap();
        let endpoint = EndpointName::new("gate-1004").unwrap();
        note_denial(&mut tx, &scope, (&endpoint, ReasonCode::NotEnrolled), late).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(told().await, 1001);
        assert_eq!(scope.denials_before(None, 2000).await.unwrap().len(), 1000);
    }

    /// So many devices knock one after the other; when, is said for each.
    async fn all_knock(scope: &AccountScope, devices: i64, at: impl Fn(i64) -> UnixSeconds) {
        let mut tx = scope.write().await.unwrap();
        for n in 0..devices {
            let endpoint = EndpointName::new(format!("gate-{n:04}")).unwrap();
            note_denial(&mut tx, scope, (&endpoint, ReasonCode::NotEnrolled), at(n)).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_device_that_knocks_again_and_again_is_one_denial_and_one_event() {
        let db = Database::new().await;
        let scope = db.account("one").await;
        let endpoint = EndpointName::new("gate-1").unwrap();
        for n in 0..5 {
            let knock = FactoryIdentity { endpoint: &endpoint, authority: "ca-1", serial: "01", fingerprint: &[0; 32] };
            scope.admit(knock, UnixSeconds(NOW.0 + n)).await.unwrap().unwrap_err();
        }
        let denials = scope.denials_before(None, 10).await.unwrap();
        assert_eq!((denials.len(), denials[0].attempts, denials[0].last), (1, 5, UnixSeconds(NOW.0 + 4)));
        let told = scope.events_after(0, 100).await.unwrap();
        assert_eq!(told.iter().filter(|event| event.kind == "device.denied").count(), 1);
    }

    #[tokio::test]
    async fn the_same_rule_twice_is_one_enrolment() {
        let db = Database::new().await;
        let scope = db.account("one").await;
        let rule = EnrolmentRule::Endpoint(EndpointName::new("gate-1").unwrap());
        let (first, second) =
            (scope.add_enrolment(&rule, NOW).await.unwrap(), scope.add_enrolment(&rule, NOW).await.unwrap());
        assert_eq!(first, second);
        scope.delete_enrolment(&first.id, NOW).await.unwrap();
        assert_ne!(scope.add_enrolment(&rule, NOW).await.unwrap().id, first.id, "an id was given out twice");
        let unknown = scope.add_enrolment(&EnrolmentRule::Authority("ca-9".into()), NOW).await.unwrap_err();
        assert!(matches!(unknown, StoreError::NotFound { kind: "authority", .. }));
    }
}
