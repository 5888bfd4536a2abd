//! What an account keeps under a name and a revision: reading, listing, telling of and forgetting it. What such a thing holds is the
//! business of its own module.

use protocol_types::{GroupName, UnixSeconds};
use serde_json::Value;
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, StoreError,
    error::{at_revision, cannot},
    events,
    numbers::from_sql,
    transaction::Transaction,
};

/// A row of a table whose key is `account` and `name`, and that counts its changes in `revision`.
pub(crate) trait Named: Sized {
    /// What it is, in an error's words.
    const KIND: &'static str;
    /// What the database is asked for, in an error's words.
    const DOING: &'static str;
    /// Its table and the short name that `COLUMNS` has for it.
    const FROM: &'static str;
    /// The columns that `read` understands.
    const COLUMNS: &'static str;
    /// The first word of its events' kinds.
    const EVENT: &'static str;
    /// The first segment of its events' subjects.
    const PATH: &'static str;

    /// The thing in a row of `COLUMNS`.
    fn read(row: &AnyRow) -> Result<Self, StoreError>;

    /// There is none of this name.
    fn missing(name: &GroupName) -> StoreError {
        StoreError::NotFound { kind: Self::KIND, id: name.to_string() }
    }

    /// There is one of this name already.
    fn exists(name: &GroupName) -> StoreError {
        StoreError::Exists { kind: Self::KIND, id: name.to_string() }
    }

    /// The row that an `UPDATE … RETURNING revision` answered, if there was one and it was at the revision `at` before.
    fn changed(row: Option<AnyRow>, name: &GroupName, at: Option<i64>) -> Result<AnyRow, StoreError> {
        let row = row.ok_or_else(|| Self::missing(name))?;
        let was = row.try_get::<i64, _>("revision").map_err(cannot(Self::DOING))? - 1;
        at_revision((Self::KIND, name.as_str()), at, was)?;
        Ok(row)
    }
}

impl AccountScope {
    /// The one of this name.
    pub(crate) async fn named<T: Named>(&self, name: &GroupName) -> Result<T, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot(T::DOING))?;
        self.named_on(&mut connection, name).await
    }

    /// The one of this name, as a reader or a transaction sees it.
    pub(crate) async fn named_on<T: Named>(&self, sql: &mut AnyConnection, name: &GroupName) -> Result<T, StoreError> {
        let query = format!("SELECT {} FROM {} WHERE account = $1 AND name = $2", T::COLUMNS, T::FROM);
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(name.as_str())
            .fetch_optional(sql)
            .await
            .map_err(cannot(T::DOING))?;
        row.as_ref().map_or_else(|| Err(T::missing(name)), T::read)
    }

    /// At most `limit` of those whose name comes after `after`, by name.
    pub(crate) async fn named_after<T: Named>(&self, after: &str, limit: u32) -> Result<Vec<T>, StoreError> {
        let sql =
            format!("SELECT {} FROM {} WHERE account = $1 AND name > $2 ORDER BY name LIMIT $3", T::COLUMNS, T::FROM);
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot(T::DOING))?;
        rows.iter().map(T::read).collect()
    }

    /// Refuses one more where the account has `most`; `what` names them in the refusal.
    pub(crate) async fn has_room_for<T: Named>(
        &self,
        tx: &mut Transaction,
        what: &'static str,
        most: u64,
    ) -> Result<(), StoreError> {
        let row = sqlx::query(AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {} WHERE account = $1", T::FROM)))
            .bind(self.id())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(T::DOING))?;
        if from_sql(row.try_get("n").map_err(cannot(T::DOING))?) >= most {
            return Err(StoreError::TooMany { what, most });
        }
        Ok(())
    }

    /// Forgets the one of this name, if it is still at the revision `at`.
    pub(crate) async fn forget_named<T: Named>(
        &self,
        tx: &mut Transaction,
        name: &GroupName,
        at: Option<i64>,
    ) -> Result<(), StoreError> {
        let sql = format!("DELETE FROM {} WHERE account = $1 AND name = $2 RETURNING revision", T::FROM);
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(name.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(T::DOING))?
            .ok_or_else(|| T::missing(name))?;
        at_revision((T::KIND, name.as_str()), at, row.try_get("revision").map_err(cannot(T::DOING))?)
    }

    /// Appends an event about the one of this name; `what` happened to it.
    pub(crate) async fn tell_named<T: Named>(
        &self,
        tx: &mut Transaction,
        (name, what): (&GroupName, &str),
        data: Value,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let kind = format!("{}.{what}", T::EVENT);
        let draft = EventDraft { kind: &kind, subject: format!("{}/{name}", T::PATH), data };
        events::append(tx, self, now, draft).await
    }
}
