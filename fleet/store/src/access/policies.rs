//! Cedar policies that an account adds to those of the service, as text. What they say is the business of the server.

use protocol_types::{AccountName, GroupName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, ServiceWide, StoreError,
    error::{at_revision, cannot},
    named::Named,
    numbers::{time, to_sql},
    rows::formed,
};

/// Most policies of an account.
const MAX_POLICIES: u64 = 100;

/// A policy of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// The account; the policy also holds in all accounts below.
    pub account: AccountName,
    /// Its name, by the rule of groups' names.
    pub name: GroupName,
    /// Its text.
    pub policy: String,
    /// When it was made.
    pub created: UnixSeconds,
    /// Counts every change.
    pub revision: i64,
}

impl Named for PolicyRow {
    const KIND: &'static str = "policy";
    const DOING: &'static str = "look after policies";
    const FROM: &'static str = "access_policies";
    const COLUMNS: &'static str = "account, name, policy, created, revision";
    const EVENT: &'static str = "policy";
    const PATH: &'static str = "policies";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = "read a policy";
        Ok(Self {
            account: formed(row, doing, ("access_policies", "account"))?,
            name: formed(row, doing, ("access_policies", "name"))?,
            policy: row.try_get("policy").map_err(cannot(doing))?,
            created: time(row.try_get("created").map_err(cannot(doing))?),
            revision: row.try_get("revision").map_err(cannot(doing))?,
        })
    }
}

impl AccountScope {
    /// Keeps a policy under a name, in place of the one of that name, if that is still at the revision `at`. Answers whether it is new.
    pub async fn save_policy(
        &self,
        (name, policy): (&GroupName, &str),
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<(PolicyRow, bool), StoreError> {
        let doing = "keep a policy";
        let mut tx = self.write().await?;
        let was = sqlx::query("SELECT revision FROM access_policies WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(name.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let was: Option<i64> = was.map(|row| row.try_get("revision")).transpose().map_err(cannot(doing))?;
        at_revision(("policy", name.as_str()), at, was.unwrap_or_default())?;
        if was.is_none() {
            self.has_room_for::<PolicyRow>(&mut tx, "policies in an account", MAX_POLICIES).await?;
        }
        sqlx::query(
            "INSERT INTO access_policies (account, name, policy, created, revision) VALUES ($1, $2, $3, $4, 1)
             ON CONFLICT (account, name) DO UPDATE SET policy = $3, revision = access_policies.revision + 1",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(policy)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let what = if was.is_none() { "created" } else { "changed" };
        self.tell_named::<PolicyRow>(&mut tx, (name, what), json!({ "policy": policy }), now).await?;
        tx.commit().await?;
        Ok((self.policy(name).await?, was.is_none()))
    }

    /// One policy.
    pub async fn policy(&self, name: &GroupName) -> Result<PolicyRow, StoreError> {
        self.named(name).await
    }

    /// Forgets a policy, if it is still at the revision `at`.
    pub async fn delete_policy(&self, name: &GroupName, at: Option<i64>, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.forget_named::<PolicyRow>(&mut tx, name, at).await?;
        self.tell_named::<PolicyRow>(&mut tx, (name, "deleted"), json!({}), now).await?;
        tx.commit().await
    }
}

impl ServiceWide {
    /// The policies of all these accounts, by account and name.
    pub async fn policies_of(&self, accounts: &[AccountName]) -> Result<Vec<PolicyRow>, StoreError> {
        let mut found = Vec::new();
        for account in accounts {
            let rows = sqlx::query(
                "SELECT account, name, policy, created, revision FROM access_policies WHERE account = $1 ORDER BY name",
            )
            .bind(account.as_str())
            .fetch_all(self.store.readers())
            .await
            .map_err(cannot("read the policies of an account"))?;
            for row in &rows {
                found.push(PolicyRow::read(row)?);
            }
        }
        Ok(found)
    }
}
