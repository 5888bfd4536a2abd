//! Filters that an account keeps under a name.

use protocol_types::{GroupName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, Filter, RequestKey, StoreError,
    error::{at_revision, cannot, formed},
    events, idempotency,
    numbers::{time, to_sql},
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

fn read(row: &AnyRow) -> Result<SavedFilterRow, StoreError> {
    let doing = "read a saved filter";
    Ok(SavedFilterRow {
        name: formed(row, doing, ("saved_filters", "name"))?,
        title: row.try_get("title").map_err(cannot(doing))?,
        filter: formed(row, doing, ("saved_filters", "filter"))?,
        created: time(row.try_get("created").map_err(cannot(doing))?),
        revision: row.try_get("revision").map_err(cannot(doing))?,
    })
}

fn missing(name: &GroupName) -> StoreError {
    StoreError::NotFound { kind: "filter", id: name.to_string() }
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
                return Err(StoreError::Exists { kind: "filter", id: name.to_string() });
            }
            let draft = EventDraft { kind: "filter.created", subject: format!("filters/{name}"), data: json!({}) };
            events::append(&mut tx, self, now, draft).await?;
        }
        tx.commit().await?;
        self.saved_filter(name).await
    }

    /// One filter.
    pub async fn saved_filter(&self, name: &GroupName) -> Result<SavedFilterRow, StoreError> {
        let row = sqlx::query(
            "SELECT name, title, filter, created, revision FROM saved_filters WHERE account = $1 AND name = $2",
        )
        .bind(self.id())
        .bind(name.as_str())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read a saved filter"))?;
        row.as_ref().map_or_else(|| Err(missing(name)), read)
    }

    /// At most `limit` filters whose name comes after `after`.
    pub async fn saved_filters_after(&self, after: &str, limit: u32) -> Result<Vec<SavedFilterRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, title, filter, created, revision FROM saved_filters
             WHERE account = $1 AND name > $2 ORDER BY name LIMIT $3",
        )
        .bind(self.id())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list saved filters"))?;
        rows.iter().map(read).collect()
    }

    /// Replaces title and text of a filter, if it is still at the revision `at`.
    pub async fn change_filter(
        &self,
        name: &GroupName,
        (title, filter): (Option<&str>, Option<&Filter>),
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<SavedFilterRow, StoreError> {
        let doing = "change a saved filter";
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
        .map_err(cannot(doing))?
        .ok_or_else(|| missing(name))?;
        let was = row.try_get::<i64, _>("revision").map_err(cannot(doing))? - 1;
        at_revision(("filter", name.as_str()), at, was)?;
        let draft = EventDraft { kind: "filter.changed", subject: format!("filters/{name}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.saved_filter(name).await
    }

    /// Forgets a filter, if it is still at the revision `at`.
    pub async fn delete_filter(&self, name: &GroupName, at: Option<i64>, now: UnixSeconds) -> Result<(), StoreError> {
        let doing = "forget a saved filter";
        let mut tx = self.write().await?;
        let row = sqlx::query("DELETE FROM saved_filters WHERE account = $1 AND name = $2 RETURNING revision")
            .bind(self.id())
            .bind(name.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?
            .ok_or_else(|| missing(name))?;
        let was: i64 = row.try_get("revision").map_err(cannot(doing))?;
        at_revision(("filter", name.as_str()), at, was)?;
        let draft = EventDraft { kind: "filter.deleted", subject: format!("filters/{name}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await
    }
}
