//! Quotas: how much of something an account and those below it may have together. Each is held in the transaction of the insert, and the
//! quota of every account above is a ceiling.

use protocol_types::{AccountName, UnixSeconds};
use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use crate::{
    AccountScope, EventDraft, StoreError,
    error::cannot,
    events,
    numbers::{from_sql, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaKind {
    /// Devices in the directory that were not decommissioned.
    Devices,
    /// Bytes of artifacts.
    ArtifactBytes,
    /// Groups of devices.
    Groups,
    /// Users and service accounts.
    Principals,
    /// Tokens and sessions that still work.
    Tokens,
}

impl QuotaKind {
    /// All kinds.
    pub const ALL: &[Self] = &[Self::Devices, Self::ArtifactBytes, Self::Groups, Self::Principals, Self::Tokens];

    /// The kind as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::ArtifactBytes => "artifact_bytes",
            Self::Groups => "groups",
            Self::Principals => "principals",
            Self::Tokens => "tokens",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Counts what the accounts in `family` have; `$2` is the present, for what ends by itself.
    const fn count(self) -> &'static str {
        match self {
            Self::Devices => {
                "SELECT COUNT(*) AS n FROM devices WHERE account IN (SELECT name FROM family) AND decommissioned IS NULL"
            }
            Self::ArtifactBytes => {
                "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS n FROM artifacts WHERE account IN (SELECT name FROM family)"
            }
            Self::Groups => "SELECT COUNT(*) AS n FROM device_groups WHERE account IN (SELECT name FROM family)",
            Self::Principals => "SELECT COUNT(*) AS n FROM principals WHERE account IN (SELECT name FROM family)",
            Self::Tokens => {
                "SELECT COUNT(*) AS n FROM tokens WHERE account IN (SELECT name FROM family) AND revoked IS NULL
                 AND (expires IS NULL OR expires > $2)"
            }
        }
    }
}

/// A quota, and what stands against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRow {
    /// What it counts.
    pub kind: QuotaKind,
    /// How much the account and those below it may have together; without it, as much as the accounts above allow.
    pub most: Option<u64>,
    /// How much they have.
    pub used: u64,
}

/// An account and all below it. The number bounds a walk through a damaged table.
const FAMILY: &str = "WITH RECURSIVE family (name, depth) AS (
    SELECT name, 0 FROM accounts WHERE name = $1
    UNION ALL SELECT a.name, family.depth + 1 FROM accounts a JOIN family ON a.parent = family.name WHERE family.depth < 16)";
/// The quotas that hold for an account: its own and those of the accounts above, the nearest first.
const CEILINGS: &str = "WITH RECURSIVE up (name, parent, depth) AS (
    SELECT name, parent, 0 FROM accounts WHERE name = $1
    UNION ALL SELECT a.name, a.parent, up.depth + 1 FROM accounts a JOIN up ON a.name = up.parent WHERE up.depth < 16)
    SELECT q.account, q.most FROM quotas q JOIN up ON up.name = q.account WHERE q.kind = $2 ORDER BY up.depth";

async fn used(
    sql: &mut AnyConnection,
    account: &AccountName,
    kind: QuotaKind,
    now: UnixSeconds,
) -> Result<u64, StoreError> {
    let doing = "count what a quota limits";
    let text = format!("{FAMILY} {}", kind.count());
    let query = sqlx::query(AssertSqlSafe(text)).bind(account.as_str());
    let query = if kind == QuotaKind::Tokens { query.bind(to_sql(now.0)) } else { query };
    let row = query.fetch_one(sql).await.map_err(cannot(doing))?;
    Ok(from_sql(row.try_get("n").map_err(cannot(doing))?))
}

impl AccountScope {
    /// Refuses `more` of something if the account or one above would then have more than it may.
    pub(crate) async fn within_quota(
        &self,
        tx: &mut Transaction,
        (kind, more): (QuotaKind, u64),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "look for quotas";
        let rows = sqlx::query(CEILINGS)
            .bind(self.id())
            .bind(kind.as_str())
            .fetch_all(tx.sql())
            .await
            .map_err(cannot(doing))?;
        for row in rows {
            let account: AccountName = formed(&row, doing, ("quotas", "account"))?;
            let most = from_sql(row.try_get("most").map_err(cannot(doing))?);
            let used = used(tx.sql(), &account, kind, now).await?;
            if used.saturating_add(more) > most {
                return Err(StoreError::QuotaExceeded {
                    what: kind.as_str(),
                    account: account.to_string(),
                    most,
                    used,
                });
            }
        }
        Ok(())
    }

    /// The quotas of the account, one of each kind, set or not.
    pub async fn quotas(&self, now: UnixSeconds) -> Result<Vec<QuotaRow>, StoreError> {
        let doing = "read quotas";
        self.account_row().await?;
        let mut reader = self.readers().acquire().await.map_err(cannot(doing))?;
        let mut found = Vec::new();
        for kind in QuotaKind::ALL.iter().copied() {
            let row = sqlx::query("SELECT most FROM quotas WHERE account = $1 AND kind = $2")
                .bind(self.id())
                .bind(kind.as_str())
                .fetch_optional(&mut *reader)
                .await
                .map_err(cannot(doing))?;
            let most = row.map(|row| row.try_get("most").map(from_sql).map_err(cannot(doing))).transpose()?;
            found.push(QuotaRow { kind, most, used: used(&mut reader, &self.account, kind, now).await? });
        }
        Ok(found)
    }

    /// Sets or removes quotas of the account on behalf of `by`; both audit logs tell it. What there is already stays, even if it is more.
    pub async fn set_quotas(
        &self,
        by: &Self,
        wanted: &[(QuotaKind, Option<u64>)],
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "set a quota";
        self.account_row().await?;
        let mut tx = by.write().await?;
        tx.also_audited(&self.account);
        for (kind, most) in wanted {
            let query = match most {
                Some(most) => sqlx::query(
                    "INSERT INTO quotas (account, kind, most) VALUES ($1, $2, $3)
                     ON CONFLICT (account, kind) DO UPDATE SET most = excluded.most",
                )
                .bind(self.id())
                .bind(kind.as_str())
                .bind(to_sql(*most)),
                None => sqlx::query("DELETE FROM quotas WHERE account = $1 AND kind = $2")
                    .bind(self.id())
                    .bind(kind.as_str()),
            };
            query.execute(tx.sql()).await.map_err(cannot(doing))?;
            let data = json!({ "kind": kind.as_str(), "most": most });
            let subject = format!("accounts/{}", self.account);
            events::append(&mut tx, self, now, EventDraft { kind: "account.quota_set", subject, data }).await?;
        }
        tx.commit().await
    }
}
