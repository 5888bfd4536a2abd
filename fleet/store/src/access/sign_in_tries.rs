//! Tries to sign in, counted before each one, so that no number of guesses at once goes uncounted. Nobody learns from them who is a user:
//! a try for a name that does not exist counts as any other.

use protocol_types::{Digest, UnixSeconds};
use sqlx::Row;

use crate::{
    ServiceWide, StoreError,
    error::cannot,
    numbers::{from_sql, time, to_sql},
};

/// Most subjects that are remembered; those that tried longest ago are forgotten first.
const MAX_SUBJECTS: u64 = 100_000;
/// How many are forgotten at once, so that not each try looks for the oldest.
const FORGOTTEN: i64 = 1_000;

/// Too many tries failed; the next one counts from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locked {
    /// When the next try may come.
    pub until: UnixSeconds,
}

impl ServiceWide {
    /// Counts a try, unless its subject is locked. `wait` says for how many seconds this many tries in a row lock.
    pub async fn begin_try(
        &self,
        subject: &Digest,
        wait: fn(u64) -> u64,
        now: UnixSeconds,
    ) -> Result<Result<(), Locked>, StoreError> {
        let doing = "count a try to sign in";
        let mut tx = self.store.write().await?;
        let row = sqlx::query("SELECT tries, locked_until FROM sign_in_tries WHERE subject = $1")
            .bind(subject.hex())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let mut tries = 1;
        if let Some(row) = row {
            let until = time(row.try_get("locked_until").map_err(cannot(doing))?);
            if until > now {
                return Ok(Err(Locked { until }));
            }
            tries = from_sql(row.try_get("tries").map_err(cannot(doing))?).saturating_add(1);
        } else {
            let row = sqlx::query("SELECT COUNT(*) AS n FROM sign_in_tries")
                .fetch_one(tx.sql())
                .await
                .map_err(cannot(doing))?;
            if from_sql(row.try_get("n").map_err(cannot(doing))?) >= MAX_SUBJECTS {
                sqlx::query(
                    "DELETE FROM sign_in_tries WHERE subject IN (SELECT subject FROM sign_in_tries ORDER BY last LIMIT $1)",
                )
                .bind(FORGOTTEN)
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
            }
        }
        sqlx::query(
            "INSERT INTO sign_in_tries (subject, tries, last, locked_until) VALUES ($1, $2, $3, $4)
             ON CONFLICT (subject) DO UPDATE SET tries = excluded.tries, last = excluded.last, locked_until = excluded.locked_until",
        )
        .bind(subject.hex())
        .bind(to_sql(tries))
        .bind(to_sql(now.0))
        .bind(to_sql(now.0.saturating_add(wait(tries))))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    /// Forgets the tries of somebody who signed in, or whom an administrator has reset.
    pub async fn end_tries(&self, subject: &Digest) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        sqlx::query("DELETE FROM sign_in_tries WHERE subject = $1")
            .bind(subject.hex())
            .execute(tx.sql())
            .await
            .map_err(cannot("forget tries to sign in"))?;
        tx.commit().await
    }

    /// Forgets tries that were last made before `before`.
    pub async fn forget_tries(&self, before: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        sqlx::query("DELETE FROM sign_in_tries WHERE last < $1 AND locked_until < $1")
            .bind(to_sql(before.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("forget tries to sign in"))?;
        tx.commit().await
    }
}
