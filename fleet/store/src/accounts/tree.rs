//! The tree of accounts: organisation, customer, site. Roles and policies of an account also hold below it.

use protocol_types::{AccountName, UnixSeconds};
use serde_json::json;
use sqlx::{AnyConnection, Row};

use crate::{
    AccountRow, AccountScope, EventDraft, ServiceWide, StoreError,
    accounts::read,
    error::{at_revision, cannot},
    events,
    rows::formed,
    transaction::Transaction,
};

/// How many accounts may stand one below the other.
const MAX_DEPTH: usize = 8;

/// From the account up to the one that stands below no other. The number bounds a walk through a damaged table.
const UPWARDS: &str = "WITH RECURSIVE up (name, parent, depth) AS (
    SELECT name, parent, 0 FROM accounts WHERE name = $1
    UNION ALL SELECT a.name, a.parent, up.depth + 1 FROM accounts a JOIN up ON a.name = up.parent WHERE up.depth < 16)
    SELECT name FROM up ORDER BY depth";
/// How many levels of accounts stand below one.
const HEIGHT: &str = "WITH RECURSIVE down (name, depth) AS (
    SELECT name, 0 FROM accounts WHERE name = $1
    UNION ALL SELECT a.name, down.depth + 1 FROM accounts a JOIN down ON a.parent = down.name WHERE down.depth < 16)
    SELECT CAST(MAX(depth) AS BIGINT) AS height FROM down";
/// The account and all below it, by name.
const FAMILY: &str = "WITH RECURSIVE down (name, depth) AS (
    SELECT name, 0 FROM accounts WHERE name = $1
    UNION ALL SELECT a.name, down.depth + 1 FROM accounts a JOIN down ON a.parent = down.name WHERE down.depth < 16)
    SELECT name, title, parent, created, revision FROM accounts WHERE name IN (SELECT name FROM down) AND name > $2
    ORDER BY name LIMIT $3";

async fn path(sql: &mut AnyConnection, account: &AccountName) -> Result<Vec<AccountName>, StoreError> {
    let doing = "walk up the tree of accounts";
    let rows = sqlx::query(UPWARDS).bind(account.as_str()).fetch_all(sql).await.map_err(cannot(doing))?;
    if rows.is_empty() {
        return Err(StoreError::NotFound { kind: "account", id: account.to_string() });
    }
    rows.iter().map(|row| formed(row, doing, ("accounts", "name"))).collect()
}

/// Puts an account below another; refuses a round and a tree that would be too deep.
pub(crate) async fn admit_below(
    tx: &mut Transaction,
    account: &AccountName,
    parent: &AccountName,
) -> Result<(), StoreError> {
    let doing = "put an account below another";
    let above = path(tx.sql(), parent).await?;
    if above.contains(account) {
        return Err(StoreError::AccountInItself { name: account.to_string() });
    }
    let row = sqlx::query(HEIGHT).bind(account.as_str()).fetch_one(tx.sql()).await.map_err(cannot(doing))?;
    let height: i64 = row.try_get("height").map_err(cannot(doing))?;
    if above.len().saturating_add(usize::try_from(height).unwrap_or(MAX_DEPTH)) >= MAX_DEPTH {
        return Err(StoreError::TooMany { what: "accounts one below the other", most: 8 });
    }
    sqlx::query("UPDATE accounts SET parent = $2 WHERE name = $1")
        .bind(account.as_str())
        .bind(parent.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
    Ok(())
}

impl AccountScope {
    /// Puts the account below another, or below none, if it is still at the revision `at`. The audit logs of `by` and of the account
    /// both tell it.
    pub async fn move_account(
        &self,
        by: &Self,
        parent: Option<&AccountName>,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<AccountRow, StoreError> {
        let doing = "move an account";
        let mut tx = by.write().await?;
        tx.also_audited(&self.account);
        let row = sqlx::query("UPDATE accounts SET revision = revision + 1 WHERE name = $1 RETURNING parent, revision")
            .bind(self.id())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?
            .ok_or_else(|| StoreError::NotFound { kind: "account", id: self.account.to_string() })?;
        at_revision(("account", self.id()), at, row.try_get::<i64, _>("revision").map_err(cannot(doing))? - 1)?;
        let was: Option<String> = row.try_get("parent").map_err(cannot(doing))?;
        match parent {
            Some(parent) => admit_below(&mut tx, &self.account, parent).await?,
            None => {
                sqlx::query("UPDATE accounts SET parent = NULL WHERE name = $1")
                    .bind(self.id())
                    .execute(tx.sql())
                    .await
                    .map_err(cannot(doing))?;
            }
        }
        if was.as_deref() != parent.map(AccountName::as_str) {
            let data = json!({ "from": was, "to": parent });
            let draft = EventDraft { kind: "account.moved", subject: format!("accounts/{}", self.account), data };
            events::append(&mut tx, self, now, draft).await?;
        }
        tx.commit().await?;
        self.account_row().await
    }

    /// Of this account and those below it at most `limit` whose name comes after `after`.
    pub async fn family_after(&self, after: &str, limit: u32) -> Result<Vec<AccountRow>, StoreError> {
        let rows = sqlx::query(FAMILY)
            .bind(self.id())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list the accounts below one"))?;
        rows.iter().map(read).collect()
    }
}

impl ServiceWide {
    /// The account, the one above it, and so on to the one that stands below no other.
    pub async fn account_path(&self, account: &AccountName) -> Result<Vec<AccountName>, StoreError> {
        let mut connection = self.store.readers().acquire().await.map_err(cannot("walk up the tree of accounts"))?;
        path(&mut connection, account).await
    }
}
