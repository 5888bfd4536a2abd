//! Filters that an account keeps under a name.

use protocol_types::{GroupName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Filter, RequestKey, StoreError,
    error::cannot,
    idempotency,
    named::Named,
    numbers::{time, to_sql},
    rows::formed,
};

/// A filter under a name.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedFilterRow {
    /// Its name, by the rule of groups' names.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// The filter.
    pub filter: Filter,
    /// When it was made.
    pub created: UnixSeconds,
    /// Counts every change.
    pub revision: i64,
}

impl Named for SavedFilterRow {
    const KIND: &'static str = "filter";
    const DOING: &'static str = "look after saved filters";
    const FROM: &'static str = "saved_filters";
    const COLUMNS: &'static str = "name, title, filter, created, revision";
    const EVENT: &'static str = "filter";
    const PATH: &'static str = "filters";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = "read a saved filter";
        Ok(Self {
            name: formed(row, doing, ("saved_filters", "name"))?,
            title: row.try_get("title").map_err(cannot(doing))?,
            filter: formed(row, doing, ("saved_filters", "filter"))?,
            created: time(row.try_get("created").map_err(cannot(doing))?),
            revision: row.try_get("revision").map_err(cannot(doing))?,
        })
    }
}

impl AccountScope {
    /// Keeps a filter.
    pub async fn create_filter(
        &self,
        (name, title): (&GroupName, &str),
        filter: &Filter,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<SavedFilterRow, StoreError> {
        let mut tx = self.write().await?;
        if idempotency::claim(&mut tx, self, key, name.as_str(), now).await?.is_none() {
            let made = sqlx::query(
                "INSERT INTO saved_filters (account, name, title, filter, created, revision) VALUES ($1, $2, $3, $4, $5, 1)
                 ON CONFLICT (account, name) DO NOTHING",
            )
            .bind(self.id())
            .bind(name.as_str())
            .bind(title)
            .bind(filter.as_str())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("keep a filter"))?;
            if made.rows_affected() == 0 {
                return Err(SavedFilterRow::exists(name));
            }
            self.tell_named::<SavedFilterRow>(&mut tx, (name, "created"), json!({}), now).await?;
        }
        tx.commit().await?;
        self.saved_filter(name).await
    }

    /// One filter.
    pub async fn saved_filter(&self, name: &GroupName) -> Result<SavedFilterRow, StoreError> {
        self.named(name).await
    }

    /// At most `limit` filters whose name comes after `after`.
    pub async fn saved_filters_after(&self, after: &str, limit: u32) -> Result<Vec<SavedFilterRow>, StoreError> {
        self.named_after(after, limit).await
    }

    /// Replaces title and text of a filter, if it is still at the revision `at`.
    pub async fn change_filter(
        &self,
        name: &GroupName,
        (title, filter): (Option<&str>, Option<&Filter>),
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<SavedFilterRow, StoreError> {
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE saved_filters SET revision = revision + 1, title = COALESCE($3, title), filter = COALESCE($4, filter)
             WHERE account = $1 AND name = $2 RETURNING revision",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(title)
        .bind(filter.map(Filter::as_str))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot("change a saved filter"))?;
        SavedFilterRow::changed(row, name, at)?;
        self.tell_named::<SavedFilterRow>(&mut tx, (name, "changed"), json!({}), now).await?;
        tx.commit().await?;
        self.saved_filter(name).await
    }

    /// Forgets a filter, if it is still at the revision `at`.
    pub async fn delete_filter(&self, name: &GroupName, at: Option<i64>, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.forget_named::<SavedFilterRow>(&mut tx, name, at).await?;
        self.tell_named::<SavedFilterRow>(&mut tx, (name, "deleted"), json!({}), now).await?;
        tx.commit().await
    }
}
