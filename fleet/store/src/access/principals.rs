//! Principals: who can hold roles in an account. Users are people, service accounts are programs.

use std::{fmt, str::FromStr};

use protocol_types::{AccountName, UnixSeconds};
use serde_json::json;
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, QuotaKind, RequestKey, StoreError,
    error::{at_revision, cannot},
    events, idempotency,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Most principals of an account.
const MAX_PRINCIPALS: u64 = 10_000;
const NAME_BYTES: usize = 64;

/// What kind of principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PrincipalKind {
    /// A person.
    User,
    /// A program.
    Service,
}

impl PrincipalKind {
    /// The kind as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
        }
    }

    const fn of_resource(self) -> &'static str {
        match self {
            Self::User => "users",
            Self::Service => "service-accounts",
        }
    }
}

/// A principal inside its account, written as `user/anna` or `service/ci`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrincipalName {
    kind: PrincipalKind,
    name: String,
}

/// A text that names no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a principal is `user/NAME` or `service/NAME`; the name has 1 to 64 of a-z, 0-9, `.`, `_`, `@`, `+` and `-`, beginning with a letter or digit"
)]
pub struct NotAPrincipal;

impl PrincipalName {
    /// Checks the name.
    pub fn new(kind: PrincipalKind, name: &str) -> Result<Self, NotAPrincipal> {
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let fits = name.len() <= NAME_BYTES
            && name.as_bytes().first().is_some_and(plain)
            && name.bytes().all(|b| plain(&b) || matches!(b, b'.' | b'_' | b'@' | b'+' | b'-'));
        if fits { Ok(Self { kind, name: name.to_owned() }) } else { Err(NotAPrincipal) }
    }

    /// What kind it is.
    pub const fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// Its name among those of its kind.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

impl FromStr for PrincipalName {
    type Err = NotAPrincipal;
    fn from_str(text: &str) -> Result<Self, NotAPrincipal> {
        match text.split_once('/') {
            Some(("user", name)) => Self::new(PrincipalKind::User, name),
            Some(("service", name)) => Self::new(PrincipalKind::Service, name),
            Some(_) | None => Err(NotAPrincipal),
        }
    }
}

/// A principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalRow {
    /// The account that it belongs to.
    pub home: AccountName,
    /// Who.
    pub who: PrincipalName,
    /// What people call it.
    pub title: String,
    /// When it was made.
    pub created: UnixSeconds,
    /// When somebody took away its right to act.
    pub disabled: Option<UnixSeconds>,
    /// Counts every change of it.
    pub revision: i64,
}

pub(crate) fn read(row: &AnyRow) -> Result<PrincipalRow, StoreError> {
    let doing = "read a principal";
    let (kind, name): (String, String) =
        (row.try_get("kind").map_err(cannot(doing))?, row.try_get("name").map_err(cannot(doing))?);
    Ok(PrincipalRow {
        home: formed(row, doing, ("principals", "account"))?,
        who: format!("{kind}/{name}")
            .parse()
            .map_err(|_| StoreError::Damaged { table: "principals", column: "name" })?,
        title: row.try_get("title").map_err(cannot(doing))?,
        created: time(row.try_get("created").map_err(cannot(doing))?),
        disabled: row.try_get::<Option<i64>, _>("disabled").map_err(cannot(doing))?.map(time),
        revision: row.try_get("revision").map_err(cannot(doing))?,
    })
}

/// The refusal for a principal that is not there.
pub(crate) fn missing(who: &PrincipalName) -> StoreError {
    StoreError::NotFound { kind: "principal", id: who.to_string() }
}

impl AccountScope {
    /// Makes a principal without any role.
    pub async fn create_principal(
        &self,
        (who, title): (&PrincipalName, &str),
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<PrincipalRow, StoreError> {
        let mut tx = self.write().await?;
        if idempotency::claim(&mut tx, self, key, &who.to_string(), now).await?.is_none() {
            self.insert_principal(&mut tx, (who, title), now).await?;
        }
        tx.commit().await?;
        self.principal(who).await
    }

    pub(crate) async fn insert_principal(
        &self,
        tx: &mut Transaction,
        (who, title): (&PrincipalName, &str),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "make a principal";
        let row = sqlx::query("SELECT COUNT(*) AS n FROM principals WHERE account = $1")
            .bind(self.id())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(doing))?;
        if from_sql(row.try_get("n").map_err(cannot(doing))?) >= MAX_PRINCIPALS {
            return Err(StoreError::TooMany { what: "principals in an account", most: MAX_PRINCIPALS });
        }
        self.within_quota(tx, (QuotaKind::Principals, 1), now).await?;
        let made = sqlx::query(
            "INSERT INTO principals (account, kind, name, title, created) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (account, kind, name) DO NOTHING",
        )
        .bind(self.id())
        .bind(who.kind.as_str())
        .bind(who.name.as_str())
        .bind(title)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Exists { kind: "principal", id: who.to_string() });
        }
        self.tell_principal(tx, who, "principal.created", now).await
    }

    pub(crate) async fn tell_principal(
        &self,
        tx: &mut Transaction,
        who: &PrincipalName,
        kind: &str,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let subject = format!("{}/{}", who.kind.of_resource(), who.name);
        events::append(tx, self, now, EventDraft { kind, subject, data: json!({}) }).await
    }

    /// One principal.
    pub async fn principal(&self, who: &PrincipalName) -> Result<PrincipalRow, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("read a principal"))?;
        self.principal_on(&mut connection, who).await
    }

    async fn principal_on(&self, sql: &mut AnyConnection, who: &PrincipalName) -> Result<PrincipalRow, StoreError> {
        let row = sqlx::query(
            "SELECT account, kind, name, title, created, disabled, revision FROM principals
             WHERE account = $1 AND kind = $2 AND name = $3",
        )
        .bind(self.id())
        .bind(who.kind.as_str())
        .bind(who.name.as_str())
        .fetch_optional(sql)
        .await
        .map_err(cannot("read a principal"))?;
        row.as_ref().map_or_else(|| Err(missing(who)), read)
    }

    /// Refuses a principal that is not there.
    pub(crate) async fn principal_in(&self, tx: &mut Transaction, who: &PrincipalName) -> Result<(), StoreError> {
        let row = sqlx::query("SELECT 1 FROM principals WHERE account = $1 AND kind = $2 AND name = $3")
            .bind(self.id())
            .bind(who.kind.as_str())
            .bind(who.name.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot("read a principal"))?;
        row.map(drop).ok_or_else(|| missing(who))
    }

    /// At most `limit` principals of a kind whose name comes after `after`.
    pub async fn principals_after(
        &self,
        kind: PrincipalKind,
        after: &str,
        limit: u32,
    ) -> Result<Vec<PrincipalRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT account, kind, name, title, created, disabled, revision FROM principals
             WHERE account = $1 AND kind = $2 AND name > $3 ORDER BY name LIMIT $4",
        )
        .bind(self.id())
        .bind(kind.as_str())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list principals"))?;
        rows.iter().map(read).collect()
    }

    /// Takes away a principal's right to act, or gives it back, if it is still at the revision `at`; a second time changes nothing.
    pub async fn disable_principal(
        &self,
        who: &PrincipalName,
        (disabled, at): (bool, Option<i64>),
        now: UnixSeconds,
    ) -> Result<PrincipalRow, StoreError> {
        let doing = "disable a principal";
        let mut tx = self.write().await?;
        let row = self.principal_at(&mut tx, who, at).await?;
        if row.disabled.is_some() != disabled {
            sqlx::query(
                "UPDATE principals SET disabled = CASE WHEN $5 = 1 THEN $4 ELSE NULL END, revision = revision + 1
                 WHERE account = $1 AND kind = $2 AND name = $3",
            )
            .bind(self.id())
            .bind(who.kind.as_str())
            .bind(who.name.as_str())
            .bind(to_sql(now.0))
            .bind(i64::from(disabled))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
            let kind = if disabled { "principal.disabled" } else { "principal.enabled" };
            self.tell_principal(&mut tx, who, kind, now).await?;
        }
        tx.commit().await?;
        self.principal(who).await
    }

    /// The principal as this transaction finds it, if it is still at the revision `at`.
    async fn principal_at(
        &self,
        tx: &mut Transaction,
        who: &PrincipalName,
        at: Option<i64>,
    ) -> Result<PrincipalRow, StoreError> {
        let row = self.principal_on(tx.sql(), who).await?;
        at_revision(("principal", &who.to_string()), at, row.revision)?;
        Ok(row)
    }

    /// Forgets a principal and its roles, in this account and below, and revokes its tokens, if it is still at the revision `at`.
    pub async fn delete_principal(
        &self,
        who: &PrincipalName,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.principal_at(&mut tx, who, at).await?;
        sqlx::query("DELETE FROM principals WHERE account = $1 AND kind = $2 AND name = $3")
            .bind(self.id())
            .bind(who.kind.as_str())
            .bind(who.name.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot("forget a principal"))?;
        self.revoke_tokens_of(&mut tx, (who, ""), now).await?;
        self.tell_principal(&mut tx, who, "principal.deleted", now).await?;
        tx.commit().await
    }
}
