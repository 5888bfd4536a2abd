//! Recovery keys of devices' states, which only the account's private key opens. Never opens one, and never hands one out without an event.

use protocol_types::{
    EndpointName, UnixSeconds,
    recovery::{SealedRecoveryKey, VolumeId},
};
use serde_json::json;
use sqlx::Row;

use crate::{
    AccountScope, StoreError,
    error::cannot,
    numbers::{time, to_sql},
};

/// Keys that are kept for a device: that of its state, and those of states before the last factory resets.
const KEPT: i64 = 4;

/// A recovery key that a device handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryRow {
    /// The sealed key.
    pub sealed: SealedRecoveryKey,
    /// When it came.
    pub received: UnixSeconds,
}

impl AccountScope {
    /// Keeps a sealed recovery key of a device, which says it again at each registration: one that is kept already changes nothing.
    pub async fn keep_recovery_key(
        &self,
        endpoint: &EndpointName,
        sealed: &SealedRecoveryKey,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "keep a recovery key";
        let text = sealed.to_json();
        let known =
            sqlx::query("SELECT sealed FROM recovery_keys WHERE account = $1 AND endpoint = $2 AND volume = $3")
                .bind(self.id())
                .bind(endpoint.as_str())
                .bind(sealed.volume.as_str())
                .fetch_optional(self.readers())
                .await
                .map_err(cannot(doing))?;
        if let Some(known) = known
            && known.try_get::<String, _>("sealed").map_err(cannot(doing))? == text
        {
            return Ok(());
        }
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO recovery_keys (account, endpoint, volume, number, sealed, received)
             VALUES ($1, $2, $3, (SELECT COALESCE(MAX(number), 0) + 1 FROM recovery_keys WHERE account = $1 AND endpoint = $2), $4, $5)
             ON CONFLICT (account, endpoint, volume)
             DO UPDATE SET number = excluded.number, sealed = excluded.sealed, received = excluded.received",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(sealed.volume.as_str())
        .bind(text)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        sqlx::query(
            "DELETE FROM recovery_keys WHERE account = $1 AND endpoint = $2 AND number <=
             (SELECT MAX(number) FROM recovery_keys WHERE account = $1 AND endpoint = $2) - $3",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(KEPT)
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let data = json!({ "volume": sealed.volume, "recipient": sealed.recipient });
        self.tell(&mut tx, endpoint, ("device.recovery_key_kept", data), now).await?;
        tx.commit().await
    }

    /// Hands out the recovery keys of a device, the newest first, and puts on record that `by` fetched them.
    pub async fn fetch_recovery_keys(
        &self,
        endpoint: &EndpointName,
        by: &str,
        now: UnixSeconds,
    ) -> Result<Vec<RecoveryRow>, StoreError> {
        let doing = "fetch recovery keys";
        self.device(endpoint).await?;
        let rows = sqlx::query(
            "SELECT sealed, received FROM recovery_keys WHERE account = $1 AND endpoint = $2 ORDER BY number DESC",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        let found = rows
            .iter()
            .map(|row| {
                let text: String = row.try_get("sealed").map_err(cannot(doing))?;
                let sealed = SealedRecoveryKey::parse(text.as_bytes())
                    .map_err(|_| StoreError::Damaged { table: "recovery_keys", column: "sealed" })?;
                Ok(RecoveryRow { sealed, received: time(row.try_get("received").map_err(cannot(doing))?) })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        if !found.is_empty() {
            let volumes: Vec<&VolumeId> = found.iter().map(|row| &row.sealed.volume).collect();
            let mut tx = self.write().await?;
            self.tell(&mut tx, endpoint, ("device.recovery_key_fetched", json!({ "by": by, "volumes": volumes })), now)
                .await?;
            tx.commit().await?;
        }
        Ok(found)
    }
}
