//! What an account keeps under a number: counting on, reading one, listing the newest. What such a thing holds is the business of its
//! own module.

use protocol_types::AccountName;
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, ServiceWide, StoreError,
    error::cannot,
    numbers::{from_sql, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// A row of a table whose key is `account` and `number`.
pub(crate) trait Numbered: Sized {
    /// What it is, in an error's words.
    const KIND: &'static str;
    /// What its name in addresses has before the number.
    const PREFIX: &'static str;
    /// What the database is asked for, in an error's words.
    const DOING: &'static str;
    /// Its table.
    const TABLE: &'static str;
    /// The columns that `read` understands.
    const COLUMNS: &'static str;

    /// The thing in a row of `COLUMNS`.
    fn read(row: &AnyRow) -> Result<Self, StoreError>;

    /// There is none of this number.
    fn missing(number: u64) -> StoreError {
        StoreError::NotFound { kind: Self::KIND, id: format!("{}{number}", Self::PREFIX) }
    }
}

impl AccountScope {
    /// The next number of a kind in this account; `counter` is the column of the account that has the last one.
    pub(crate) async fn next_number(&self, tx: &mut Transaction, counter: &'static str) -> Result<u64, StoreError> {
        let doing = "number a command";
        let sql =
            format!("UPDATE accounts SET {counter} = {counter} + 1 WHERE name = $1 RETURNING {counter} AS number");
        let row = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).fetch_one(tx.sql()).await.map_err(cannot(doing))?;
        row.try_get("number").map(from_sql).map_err(cannot(doing))
    }

    /// Refuses one more where so many have not ended yet; `what` they are, in an error's words.
    pub(crate) async fn must_have_room<T: Numbered>(
        &self,
        tx: &mut Transaction,
        (what, most): (&'static str, u64),
    ) -> Result<(), StoreError> {
        let query = format!("SELECT COUNT(*) AS open FROM {} WHERE account = $1 AND ended IS NULL", T::TABLE);
        let row =
            sqlx::query(AssertSqlSafe(query)).bind(self.id()).fetch_one(tx.sql()).await.map_err(cannot(T::DOING))?;
        let open: i64 = row.try_get("open").map_err(cannot(T::DOING))?;
        if from_sql(open) < most { Ok(()) } else { Err(StoreError::TooMany { what, most }) }
    }

    /// The one of this number.
    pub(crate) async fn numbered<T: Numbered>(&self, number: u64) -> Result<T, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot(T::DOING))?;
        self.numbered_on(&mut connection, number).await
    }

    /// The one of this number, as a reader or a transaction sees it.
    pub(crate) async fn numbered_on<T: Numbered>(&self, sql: &mut AnyConnection, number: u64) -> Result<T, StoreError> {
        let query = format!("SELECT {} FROM {} WHERE account = $1 AND number = $2", T::COLUMNS, T::TABLE);
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(to_sql(number))
            .fetch_optional(sql)
            .await
            .map_err(cannot(T::DOING))?;
        row.as_ref().map_or_else(|| Err(T::missing(number)), T::read)
    }

    /// At most `limit` of those whose number comes before `before`, the newest first.
    pub(crate) async fn numbered_before<T: Numbered>(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<T>, StoreError> {
        let query = format!(
            "SELECT {} FROM {} WHERE account = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
            T::COLUMNS,
            T::TABLE
        );
        let rows = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(before.map_or(i64::MAX, to_sql))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot(T::DOING))?;
        rows.iter().map(T::read).collect()
    }
}

impl ServiceWide {
    /// Those of every account that have not ended, in the order of their numbers.
    pub(crate) async fn numbered_open<T: Numbered>(&self) -> Result<Vec<(AccountName, T)>, StoreError> {
        let query =
            format!("SELECT account, {} FROM {} WHERE ended IS NULL ORDER BY account, number", T::COLUMNS, T::TABLE);
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(self.store.readers()).await.map_err(cannot(T::DOING))?;
        rows.iter().map(|row| Ok((formed(row, T::DOING, (T::TABLE, "account"))?, T::read(row)?))).collect()
    }
}
