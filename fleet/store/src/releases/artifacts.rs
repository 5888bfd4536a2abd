//! Which artifacts an account has, and how much of each has arrived. The bytes themselves lie in files, not here.

use protocol_types::{AccountName, Digest, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, EventDraft, QuotaKind, ServiceWide, StoreError,
    error::cannot,
    events,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// An artifact, whole or in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactRow {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes that are known to be on disk.
    pub received: u64,
    /// Whether all of it arrived and its digest was checked.
    pub complete: bool,
    /// When its upload began.
    pub created: UnixSeconds,
}

fn read(row: &AnyRow) -> Result<ArtifactRow, StoreError> {
    let doing = "read an artifact";
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    Ok(ArtifactRow {
        digest: formed(row, doing, ("artifacts", "digest"))?,
        size: from_sql(number("size")?),
        received: from_sql(number("received")?),
        complete: number("complete")? != 0,
        created: time(number("created")?),
    })
}

/// Another size than this one cannot be.
fn announced(digest: &Digest, size: u64) -> StoreError {
    let state = format!("announced with {size} bytes");
    StoreError::WrongState { kind: "artifact", id: digest.to_string(), state }
}

impl AccountScope {
    /// Begins an upload, or finds the one that was begun before. All artifacts of the account together stay within `limit` bytes.
    pub async fn begin_artifact(
        &self,
        digest: &Digest,
        size: u64,
        limit: u64,
        now: UnixSeconds,
    ) -> Result<ArtifactRow, StoreError> {
        let doing = "begin an artifact";
        let mut tx = self.write().await?;
        let known = sqlx::query("SELECT size FROM artifacts WHERE account = $1 AND digest = $2")
            .bind(self.id())
            .bind(digest.to_string())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        if let Some(row) = known {
            let known = from_sql(row.try_get("size").map_err(cannot(doing))?);
            if known != size {
                return Err(announced(digest, known));
            }
        } else {
            self.may_hold(&mut tx, (size, limit), now).await?;
            sqlx::query("INSERT INTO artifacts (account, digest, size, created) VALUES ($1, $2, $3, $4)")
                .bind(self.id())
                .bind(digest.to_string())
                .bind(to_sql(size))
                .bind(to_sql(now.0))
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
        }
        tx.commit().await?;
        self.artifact(digest).await
    }

    /// Corrects the size of an artifact that is not whole, to one that has room for what has arrived. Nobody may write the artifact meanwhile.
    pub async fn announce_again(
        &self,
        digest: &Digest,
        size: u64,
        limit: u64,
        now: UnixSeconds,
    ) -> Result<ArtifactRow, StoreError> {
        let doing = "correct the size of an artifact";
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "SELECT digest, size, received, complete, created FROM artifacts WHERE account = $1 AND digest = $2",
        )
        .bind(self.id())
        .bind(digest.to_string())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else {
            return Err(StoreError::NotFound { kind: "artifact", id: digest.to_string() });
        };
        let known = read(&row)?;
        if known.complete || size < known.received {
            return Err(announced(digest, known.size));
        }
        if size > known.size {
            self.may_hold(&mut tx, (size - known.size, limit), now).await?;
        }
        sqlx::query("UPDATE artifacts SET size = $3 WHERE account = $1 AND digest = $2")
            .bind(self.id())
            .bind(digest.to_string())
            .bind(to_sql(size))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        tx.commit().await?;
        self.artifact(digest).await
    }

    /// Refuses `more` bytes of artifacts beyond the limit of the account or a quota.
    async fn may_hold(
        &self,
        tx: &mut Transaction,
        (more, limit): (u64, u64),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "add up the artifacts of an account";
        let held =
            sqlx::query("SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS held FROM artifacts WHERE account = $1")
                .bind(self.id())
                .fetch_one(tx.sql())
                .await
                .map_err(cannot(doing))?;
        let needed = from_sql(held.try_get("held").map_err(cannot(doing))?).saturating_add(more);
        if needed > limit {
            return Err(StoreError::OverQuota { needed, limit });
        }
        self.within_quota(tx, (QuotaKind::ArtifactBytes, more), now).await
    }

    /// One artifact.
    pub async fn artifact(&self, digest: &Digest) -> Result<ArtifactRow, StoreError> {
        let row = sqlx::query(
            "SELECT digest, size, received, complete, created FROM artifacts WHERE account = $1 AND digest = $2",
        )
        .bind(self.id())
        .bind(digest.to_string())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read an artifact"))?;
        row.as_ref().map_or_else(|| Err(StoreError::NotFound { kind: "artifact", id: digest.to_string() }), read)
    }

    /// At most `limit` artifacts whose digest comes after `after`.
    pub async fn artifacts_after(&self, after: &str, limit: u32) -> Result<Vec<ArtifactRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT digest, size, received, complete, created FROM artifacts
             WHERE account = $1 AND digest > $2 ORDER BY digest LIMIT $3",
        )
        .bind(self.id())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list artifacts"))?;
        rows.iter().map(read).collect()
    }

    /// Notes how many bytes of an unfinished artifact are on disk.
    pub async fn artifact_received(&self, digest: &Digest, received: u64) -> Result<(), StoreError> {
        // Progress is no change that somebody decided, so it leaves nothing in the audit log.
        let mut tx = self.store.write().await?;
        sqlx::query("UPDATE artifacts SET received = $3 WHERE account = $1 AND digest = $2 AND complete = 0")
            .bind(self.id())
            .bind(digest.to_string())
            .bind(to_sql(received))
            .execute(tx.sql())
            .await
            .map_err(cannot("note the progress of an upload"))?;
        tx.commit().await
    }

    /// Notes that all bytes are on disk and have the digest.
    pub async fn artifact_complete(&self, digest: &Digest, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE artifacts SET received = size, complete = 1 WHERE account = $1 AND digest = $2 AND complete = 0",
        )
        .bind(self.id())
        .bind(digest.to_string())
        .execute(tx.sql())
        .await
        .map_err(cannot("finish an upload"))?;
        if done.rows_affected() > 0 {
            let draft = EventDraft {
                kind: "artifact.uploaded",
                subject: format!("artifacts/{}", digest.hex()),
                data: json!({}),
            };
            events::append(&mut tx, self, now, draft).await?;
        }
        tx.commit().await
    }

    /// Forgets an artifact that was announced before `before` and is not whole. Nobody may write it meanwhile.
    pub async fn forget_artifact(&self, digest: &Digest, before: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM artifacts WHERE account = $1 AND digest = $2 AND complete = 0 AND created < $3")
            .bind(self.id())
            .bind(digest.to_string())
            .bind(to_sql(before.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("forget an artifact"))?;
        tx.commit().await
    }
}

impl ServiceWide {
    /// At most `limit` artifacts of all accounts that were announced before `before` and of which bytes are missing, after this one.
    pub async fn unfinished_artifacts(
        &self,
        before: UnixSeconds,
        after: Option<&(AccountName, Digest)>,
        limit: u32,
    ) -> Result<Vec<(AccountName, Digest)>, StoreError> {
        let doing = "look for uploads that nobody goes on with";
        let (account, digest) =
            after.map_or_else(Default::default, |(account, digest)| (account.to_string(), digest.to_string()));
        let rows = sqlx::query(
            "SELECT account, digest FROM artifacts WHERE complete = 0 AND (received < size OR received = 0)
             AND created < $1 AND (account > $2 OR (account = $2 AND digest > $3)) ORDER BY account, digest LIMIT $4",
        )
        .bind(to_sql(before.0))
        .bind(account)
        .bind(digest)
        .bind(i64::from(limit))
        .fetch_all(self.store.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let account = formed(row, doing, ("artifacts", "account"))?;
                Ok((account, formed(row, doing, ("artifacts", "digest"))?))
            })
            .collect()
    }
}
