//! What is due across accounts: a bounded look, and a turn to write only where it finds something.

use protocol_types::UnixSeconds;
use sqlx::any::AnyRow;

use crate::{ServiceWide, StoreError, error::cannot, numbers::to_sql, transaction::Transaction};

impl ServiceWide {
    /// At most `most` rows that are due at `now`, as the transaction sees them that does something about them; `None` where nothing is.
    /// The question has the time as `$1` and the most rows as `$2`; `doing` names it in an error.
    pub(crate) async fn due(
        &self,
        (question, doing): (&'static str, &'static str),
        most: u32,
        now: UnixSeconds,
    ) -> Result<Option<(Transaction, Vec<AnyRow>)>, StoreError> {
        // Most looks find nothing and need no turn to write.
        let look = |most: u32| sqlx::query(question).bind(to_sql(now.0)).bind(i64::from(most));
        if look(1).fetch_optional(self.store.readers()).await.map_err(cannot(doing))?.is_none() {
            return Ok(None);
        }
        let mut tx = self.store.write().await?;
        let rows = look(most).fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        Ok(Some((tx, rows)))
    }
}
