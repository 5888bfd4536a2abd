//! Which trace the request belonged to that last changed something. Only for people who look for causes: nothing is decided by it.

use protocol_types::UnixSeconds;
use sqlx::Row;

use crate::{AccountScope, ServiceWide, StoreError, error::cannot, numbers::to_sql};

impl AccountScope {
    /// Notes the trace of a request that changes `subject`, as in `rollouts/ro-1`; `parent` is a W3C `traceparent`.
    pub async fn note_trace(&self, subject: &str, parent: &str, now: UnixSeconds) -> Result<(), StoreError> {
        // No change that somebody decided, so it leaves nothing in the audit log.
        let mut tx = self.store.write().await?;
        sqlx::query(
            "INSERT INTO traces (account, subject, parent, noted) VALUES ($1, $2, $3, $4)
             ON CONFLICT (account, subject) DO UPDATE SET parent = excluded.parent, noted = excluded.noted",
        )
        .bind(self.id())
        .bind(subject)
        .bind(parent)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("note a trace"))?;
        tx.commit().await
    }

    /// The trace of the request that last changed `subject`, if one was noted.
    pub async fn trace_of(&self, subject: &str) -> Result<Option<String>, StoreError> {
        let doing = "look for a trace";
        let row = sqlx::query("SELECT parent FROM traces WHERE account = $1 AND subject = $2")
            .bind(self.id())
            .bind(subject)
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        row.map(|row| row.try_get("parent").map_err(cannot(doing))).transpose()
    }
}

impl ServiceWide {
    /// Forgets traces that were noted before `before`.
    pub async fn forget_traces(&self, before: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        sqlx::query("DELETE FROM traces WHERE noted < $1")
            .bind(to_sql(before.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("forget traces"))?;
        tx.commit().await
    }
}
