//! Whose yes a rollout needs at its devices, and the yes that an operator gives. Never decides whether a device may go on.

use protocol_types::{Consent, DeviceConsent, EndpointName, RolloutId, UnixSeconds, WaitingFor};
use serde_json::json;
use sqlx::Row;

use crate::{
    AccountScope, Change, EventDraft, Policy, RolloutRow, StoreError, error::cannot, events, numbers::to_sql,
    rows::formed, transaction::Transaction,
};

const DOING: &str = "give consent to a rollout";
/// Devices that the event names; a person may say yes for a hundred thousand.
const NAMED: usize = 100;

impl AccountScope {
    /// How devices of a rollout ask somebody at them, if they do; those of a rollout that is not there do not. Reads no more of the
    /// rollout than that: devices are many, and so may be those that it names.
    pub async fn asked_at_device(&self, id: &RolloutId) -> Result<Option<DeviceConsent>, StoreError> {
        let doing = "read whose consent a rollout needs";
        let row = sqlx::query("SELECT consent, policy FROM rollouts WHERE account = $1 AND id = $2")
            .bind(self.id())
            .bind(id.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(None) };
        let consent = formed(&row, doing, ("rollouts", "consent"))?;
        let policy: String = row.try_get("policy").map_err(cannot(doing))?;
        let policy: Policy =
            serde_json::from_str(&policy).map_err(|_| StoreError::Damaged { table: "rollouts", column: "policy" })?;
        Ok(policy.asked_at_device(consent))
    }

    /// Says yes for `devices`, or for every device that waits for it now, and answers with the rollout.
    ///
    /// All of it happens or nothing: a device that the rollout does not know is refused, and so is a rollout that has ended or
    /// that asks for nobody's consent. Saying yes again changes nothing.
    pub async fn consent_to_rollout(
        &self,
        id: &RolloutId,
        devices: Option<&[EndpointName]>,
        now: UnixSeconds,
    ) -> Result<RolloutRow, StoreError> {
        let mut tx = self.write().await?;
        let row = self.rollout_on(tx.sql(), id).await?;
        let wrong = |state| StoreError::WrongState { kind: "rollout", id: id.to_string(), state };
        if row.state.is_end() {
            return Err(wrong(row.state.to_string()));
        }
        match row.wanted.consent {
            Consent::Operator => {}
            Consent::Automatic => return Err(wrong("a rollout that asks for nobody's consent".to_owned())),
            Consent::Device => {
                return Err(wrong("a rollout for which only somebody at each device can say yes".to_owned()));
            }
        }
        let consented = match devices {
            Some(devices) => self.consent_for(&mut tx, id, devices, now).await?,
            None => self.consent_for_waiting(&mut tx, id, now).await?,
        };
        if consented > 0 {
            let named: Vec<&EndpointName> = devices.unwrap_or_default().iter().take(NAMED).collect();
            let data = json!({ "count": consented, "devices": named });
            let draft = EventDraft { kind: "rollout.consented", subject: format!("rollouts/{id}"), data };
            events::append(&mut tx, self, now, draft).await?;
            tx.changed(Change::Rollouts(self.account.clone()));
        }
        tx.commit().await?;
        self.rollout(id).await
    }

    async fn consent_for(
        &self,
        tx: &mut Transaction,
        id: &RolloutId,
        devices: &[EndpointName],
        now: UnixSeconds,
    ) -> Result<u64, StoreError> {
        for endpoint in devices {
            let done = sqlx::query(
                "UPDATE rollout_devices SET consented = COALESCE(consented, $4)
                 WHERE account = $1 AND rollout = $2 AND endpoint = $3",
            )
            .bind(self.id())
            .bind(id.as_str())
            .bind(endpoint.as_str())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(DOING))?;
            if done.rows_affected() == 0 {
                return Err(StoreError::NotFound { kind: "device of the rollout", id: endpoint.to_string() });
            }
        }
        Ok(u64::try_from(devices.len()).unwrap_or(u64::MAX))
    }

    async fn consent_for_waiting(
        &self,
        tx: &mut Transaction,
        id: &RolloutId,
        now: UnixSeconds,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE rollout_devices SET consented = $4
             WHERE account = $1 AND rollout = $2 AND waiting_for = $3 AND consented IS NULL",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(WaitingFor::Consent.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(DOING))?;
        Ok(done.rows_affected())
    }
}
