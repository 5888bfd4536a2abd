//! What is old goes, some at a time, so that others have their turn to write. What counts as old each module says itself.

use protocol_types::UnixSeconds;

use crate::{ServiceWide, StoreError, error::cannot, numbers::to_sql};

impl ServiceWide {
    /// Runs a statement that deletes at most `$2` rows from before the time `$1`. Answers how many it deleted.
    pub(crate) async fn forget(
        &self,
        doing: &'static str,
        sql: &'static str,
        (before, limit): (UnixSeconds, u32),
    ) -> Result<u64, StoreError> {
        let mut tx = self.store.write().await?;
        let done = sqlx::query(sql)
            .bind(to_sql(before.0))
            .bind(i64::from(limit))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}
