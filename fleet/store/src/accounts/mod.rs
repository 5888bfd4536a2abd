//! Accounts: whose devices, releases and tokens there are, and which account stands below which.

pub(crate) mod quotas;
pub(crate) mod tree;

#[cfg(test)]
mod quota_tests;

use protocol_types::{AccountName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, QuotaKind, RequestKey, ServiceWide, Store, StoreError,
    accounts::tree::admit_below,
    error::cannot,
    events, idempotency,
    numbers::{time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// Its name, for ever.
    pub name: AccountName,
    /// What people call it.
    pub title: String,
    /// The account that it stands below.
    pub parent: Option<AccountName>,
    /// When it was made.
    pub created: UnixSeconds,
    /// Counts every change.
    pub revision: i64,
}

/// An account to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAccount {
    /// Its name, for ever.
    pub name: AccountName,
    /// What people call it.
    pub title: String,
    /// The account that it stands below.
    pub parent: Option<AccountName>,
}

pub(crate) fn read(row: &AnyRow) -> Result<AccountRow, StoreError> {
    let doing = "read an account";
    let parent: Option<String> = row.try_get("parent").map_err(cannot(doing))?;
    Ok(AccountRow {
        name: formed(row, doing, ("accounts", "name"))?,
        title: row.try_get("title").map_err(cannot(doing))?,
        parent: parent
            .map(AccountName::new)
            .transpose()
            .map_err(|_| StoreError::Damaged { table: "accounts", column: "parent" })?,
        created: time(row.try_get("created").map_err(cannot(doing))?),
        revision: row.try_get("revision").map_err(cannot(doing))?,
    })
}

/// Whether the row is new.
async fn insert(tx: &mut Transaction, scope: &AccountScope, title: &str, now: UnixSeconds) -> Result<bool, StoreError> {
    let made =
        sqlx::query("INSERT INTO accounts (name, title, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING")
            .bind(scope.id())
            .bind(title)
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("make an account"))?;
    if made.rows_affected() == 0 {
        return Ok(false);
    }
    let draft = EventDraft { kind: "account.created", subject: format!("accounts/{}", scope.account), data: json!({}) };
    events::append(tx, scope, now, draft).await?;
    Ok(true)
}

impl Store {
    /// Makes an account that somebody asked for from within `by`.
    pub async fn create_account(
        &self,
        by: &AccountScope,
        wanted: &NewAccount,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<AccountRow, StoreError> {
        let NewAccount { name, title, parent } = wanted;
        let scope = self.account(name);
        let mut tx = by.write().await?;
        if idempotency::claim(&mut tx, by, key, name.as_str(), now).await?.is_none() {
            if !insert(&mut tx, &scope, title, now).await? {
                return Err(StoreError::Exists { kind: "account", id: name.to_string() });
            }
            if let Some(parent) = parent {
                admit_below(&mut tx, name, parent).await?;
            }
            // Its first token follows; without room for it nobody could use the account.
            scope.within_quota(&mut tx, (QuotaKind::Tokens, 1), now).await?;
        }
        tx.commit().await?;
        scope.account_row().await
    }

    /// Makes the account if there is none of that name.
    pub async fn ensure_account(&self, name: &AccountName, title: &str, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        insert(&mut tx, &self.account(name), title, now).await?;
        tx.commit().await
    }
}

impl AccountScope {
    /// The account itself.
    pub async fn account_row(&self) -> Result<AccountRow, StoreError> {
        let row = sqlx::query("SELECT name, title, parent, created, revision FROM accounts WHERE name = $1")
            .bind(self.id())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("read an account"))?;
        row.as_ref().map_or_else(|| Err(StoreError::NotFound { kind: "account", id: self.account.to_string() }), read)
    }
}

impl ServiceWide {
    /// At most `limit` accounts whose name comes after `after`.
    pub async fn accounts_after(&self, after: &str, limit: u32) -> Result<Vec<AccountRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, title, parent, created, revision FROM accounts WHERE name > $1 ORDER BY name LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.store.readers())
        .await
        .map_err(cannot("list accounts"))?;
        rows.iter().map(read).collect()
    }
}
