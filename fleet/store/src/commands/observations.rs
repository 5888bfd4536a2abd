//! What observations have brought: the newest values of each, in order. Never knows what a value means.

use protocol_types::UnixSeconds;
use sqlx::Row;

use crate::{
    AccountScope, StoreError,
    error::cannot,
    numbers::{from_sql, to_sql},
};

/// Values of one observation that are kept; older ones make room.
pub const MAX_VALUES: u64 = 256;

/// One value that an observation has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandValueRow {
    /// 1, 2, 3 and so on; the oldest ones are gone when there are many.
    pub number: u64,
    /// When it came.
    pub time: UnixSeconds,
    /// What came.
    pub value: String,
}

impl AccountScope {
    /// Keeps what an observation of this connection has brought. Answers whether the observation goes on.
    pub async fn observed(
        &self,
        (number, session): (u64, u64),
        value: &str,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let doing = "keep what was observed";
        let mut tx = self.write().await?;
        let Some(row) = self.sent_on(&mut tx, (number, session)).await? else { return Ok(false) };
        let newest = sqlx::query(
            "SELECT COALESCE(MAX(number), 0) AS newest FROM command_values WHERE account = $1 AND command = $2",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let newest: i64 = newest.try_get("newest").map_err(cannot(doing))?;
        sqlx::query("INSERT INTO command_values (account, command, number, time, value) VALUES ($1, $2, $3, $4, $5)")
            .bind(self.id())
            .bind(to_sql(number))
            .bind(newest + 1)
            .bind(to_sql(now.0))
            .bind(value)
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        sqlx::query("DELETE FROM command_values WHERE account = $1 AND command = $2 AND number <= $3")
            .bind(self.id())
            .bind(to_sql(number))
            .bind(newest + 1 - to_sql(MAX_VALUES))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        tx.changed(self.command_changed(&row.endpoint));
        tx.commit().await?;
        Ok(true)
    }

    /// At most `limit` values of an observation after number `after`, the oldest first.
    pub async fn observed_after(
        &self,
        command: u64,
        after: u64,
        limit: u32,
    ) -> Result<Vec<CommandValueRow>, StoreError> {
        let doing = "read what was observed";
        let rows = sqlx::query(
            "SELECT number, time, value FROM command_values WHERE account = $1 AND command = $2 AND number > $3
             ORDER BY number LIMIT $4",
        )
        .bind(self.id())
        .bind(to_sql(command))
        .bind(to_sql(after))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
                Ok(CommandValueRow {
                    number: number("number")?,
                    time: UnixSeconds(number("time")?),
                    value: row.try_get("value").map_err(cannot(doing))?,
                })
            })
            .collect()
    }
}
