//! Enrolments and denials: which devices may join an account, and which were turned away.

use protocol_types::{EndpointName, ReasonCode, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, StoreError,
    error::cannot,
    events,
    numbers::{from_sql, time, to_sql},
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

/// Denials of an account that are kept; the oldest make room.
const MAX_DENIALS: i64 = 1000;

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
                let endpoint: String = row.try_get("endpoint").map_err(cannot(doing))?;
                Ok(DenialRow {
                    endpoint: EndpointName::new(endpoint)
                        .map_err(|_| StoreError::Damaged { table: "denials", column: "endpoint" })?,
                    reason: row.try_get("reason").map_err(cannot(doing))?,
                    first: time(row.try_get("first_time").map_err(cannot(doing))?),
                    last: time(row.try_get("last_time").map_err(cannot(doing))?),
                    attempts: from_sql(row.try_get("attempts").map_err(cannot(doing))?),
                })
            })
            .collect()
    }
}

/// Notes that a device was turned away; the first time for a reason is an event, repetitions only count.
pub(crate) async fn note_denial(
    tx: &mut Transaction,
    scope: &AccountScope,
    (endpoint, reason): (&EndpointName, ReasonCode),
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let doing = "note a denial";
    let row = sqlx::query(
        "INSERT INTO denials (account, endpoint, reason, first_time, last_time, attempts) VALUES ($1, $2, $3, $4, $4, 1)
         ON CONFLICT (account, endpoint, reason)
         DO UPDATE SET last_time = excluded.last_time, attempts = denials.attempts + 1 RETURNING attempts",
    )
    .bind(scope.id())
    .bind(endpoint.as_str())
    .bind(reason.as_str())
    .bind(to_sql(now.0))
    .fetch_one(tx.sql())
    .await
    .map_err(cannot(doing))?;
    if row.try_get::<i64, _>("attempts").map_err(cannot(doing))? > 1 {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM denials WHERE account = $1 AND last_time < (SELECT MIN(last_time) FROM
         (SELECT last_time FROM denials WHERE account = $1 ORDER BY last_time DESC LIMIT $2) AS kept)",
    )
    .bind(scope.id())
    .bind(MAX_DENIALS)
    .execute(tx.sql())
    .await
    .map_err(cannot(doing))?;
    let data = json!({ "reason": reason.as_str() });
    let draft = EventDraft { kind: "device.denied", subject: format!("devices/{endpoint}"), data };
    events::append(tx, scope, now, draft).await
}
