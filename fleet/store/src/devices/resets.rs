//! Factory resets that an operator asked for, until the device has taken them. Never decides whether a device may hear of one.

use protocol_types::{EndpointName, UnixSeconds};
use serde_json::json;

use crate::{AccountScope, Change, DeviceRow, StoreError, error::cannot, numbers::to_sql, transaction::Transaction};

impl AccountScope {
    /// Asks for a factory reset of a device; asking again while it has not taken it changes nothing.
    pub async fn ask_reset(&self, endpoint: &EndpointName, now: UnixSeconds) -> Result<DeviceRow, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE devices SET reset_asked = $3, reset_told = 0 WHERE account = $1 AND endpoint = $2 AND reset_asked IS NULL",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("ask for a factory reset"))?;
        if done.rows_affected() > 0 {
            tx.changed(Change::Desired(self.account.clone(), endpoint.clone()));
            self.tell(&mut tx, endpoint, ("device.reset_asked", json!({})), now).await?;
        }
        tx.commit().await?;
        self.device(endpoint).await
    }

    /// Whether a factory reset must be told to the device now; that it may have heard of it is on record when this returns.
    pub async fn begin_reset(&self, endpoint: &EndpointName) -> Result<bool, StoreError> {
        if self.device(endpoint).await?.reset_asked.is_none() {
            return Ok(false);
        }
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE devices SET reset_told = 1 WHERE account = $1 AND endpoint = $2 AND reset_asked IS NOT NULL",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot("note that a device hears of a factory reset"))?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// The device has taken the factory reset that it was told of.
    pub async fn reset_taken(&self, endpoint: &EndpointName, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.end_reset(&mut tx, endpoint, now).await?;
        tx.commit().await
    }

    /// Ends a factory reset that the device may have heard of, if there is one: it said so, or it enrols anew, which it would not
    /// if its state were still there. Its yes may have been lost, and must not cost it the new state too.
    pub(crate) async fn end_reset(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE devices SET reset_asked = NULL, reset_told = 0
             WHERE account = $1 AND endpoint = $2 AND reset_asked IS NOT NULL AND reset_told = 1",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot("note that a device took a factory reset"))?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        tx.changed(self.device_changed(endpoint));
        self.tell(tx, endpoint, ("device.reset_taken", json!({})), now).await
    }
}
