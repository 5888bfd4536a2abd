//! Joining: whether an enrolment lets a device in, and what it is given when it does. Never verifies a signature.

use protocol_types::{EndpointName, ReasonCode, Standing, UnixSeconds};
use serde_json::json;

use crate::{
    AccountScope, DeviceChange, Fingerprint, ListedRow, Promise, QuotaKind, StoreError, Verdict, devices, enrolments,
    error::cannot, numbers::to_sql, transaction::Transaction,
};

/// What a device shows when it bootstraps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FactoryIdentity<'a> {
    /// Its name.
    pub(crate) endpoint: &'a EndpointName,
    /// The authority that its chain ends at.
    pub(crate) authority: &'a str,
    /// Serial number of its factory certificate.
    pub(crate) serial: &'a str,
    /// SHA-256 of its factory certificate.
    pub(crate) fingerprint: &'a Fingerprint,
}

/// What a list gives to a device that joins by it.
type Labelled = Option<DeviceChange>;

/// Seconds in which a device that has joined is expected to register for the first time.
const FIRST_LIFETIME: u32 = 300;

impl AccountScope {
    /// Admits a device whose factory certificate was verified, if an enrolment allows it, and puts it into the directory.
    pub(crate) async fn admit_on(
        &self,
        tx: &mut Transaction,
        device: FactoryIdentity<'_>,
        now: UnixSeconds,
    ) -> Result<Verdict, StoreError> {
        match self.may_join(tx, device, now).await? {
            Ok(labels) => Ok(Ok(self.join(tx, (device, labels), now).await?)),
            Err(reason) => {
                enrolments::note_denial(tx, self, (device.endpoint, reason), now).await?;
                Ok(Err(reason))
            }
        }
    }

    /// Admits one device in a transaction of its own.
    #[cfg(test)]
    pub(crate) async fn admit(&self, device: FactoryIdentity<'_>, now: UnixSeconds) -> Result<Verdict, StoreError> {
        let mut tx = self.write().await?;
        let verdict = self.admit_on(&mut tx, device, now).await?;
        tx.commit().await?;
        Ok(verdict)
    }

    async fn may_join(
        &self,
        tx: &mut Transaction,
        device: FactoryIdentity<'_>,
        now: UnixSeconds,
    ) -> Result<Result<Labelled, ReasonCode>, StoreError> {
        let doing = "look for an enrolment";
        let allowed = sqlx::query(
            "SELECT 1 FROM enrolments WHERE account = $1 AND (endpoint = $2 OR endpoint IS NULL)
             AND (authority = $3 OR authority IS NULL)
             AND EXISTS (SELECT 1 FROM authorities WHERE account = $1 AND id = $3 AND revoked IS NULL) LIMIT 1",
        )
        .bind(self.id())
        .bind(device.endpoint.as_str())
        .bind(device.authority)
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let listed = self.listed_for(tx, device).await?;
        if allowed.is_none() && listed.is_none() {
            return Ok(Err(ReasonCode::NotEnrolled));
        }
        let since = listed.as_ref().map(|row| row.created);
        let labels = listed.map(|row| row.listed.labels);
        let known = sqlx::query("SELECT standing FROM devices WHERE account = $1 AND endpoint = $2")
            .bind(self.id())
            .bind(device.endpoint.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let standing = match known {
            Some(row) => Some(devices::standing(&row, doing)?),
            None => None,
        };
        let Some(standing) = standing else { return self.one_more(tx, labels, now).await };
        Ok(match standing {
            Standing::Active => Ok(labels),
            Standing::Suspended => Err(ReasonCode::Suspended),
            Standing::Quarantined => Err(ReasonCode::Quarantined),
            Standing::Decommissioned if self.is_enrolled_anew(tx, device.endpoint, since).await? => {
                return self.one_more(tx, labels, now).await;
            }
            Standing::Decommissioned => Err(ReasonCode::Decommissioned),
        })
    }

    /// Lets one more device join if the quotas of the account and of those above leave room.
    async fn one_more(
        &self,
        tx: &mut Transaction,
        labels: Labelled,
        now: UnixSeconds,
    ) -> Result<Result<Labelled, ReasonCode>, StoreError> {
        match self.within_quota(tx, (QuotaKind::Devices, 1), now).await {
            Ok(()) => Ok(Ok(labels)),
            Err(StoreError::QuotaExceeded { .. }) => Ok(Err(ReasonCode::QuotaExceeded)),
            Err(error) => Err(error),
        }
    }

    /// What a list says of the certificate, if it allows the device to join with it now.
    async fn listed_for(
        &self,
        tx: &mut Transaction,
        device: FactoryIdentity<'_>,
    ) -> Result<Option<ListedRow>, StoreError> {
        let Some(row) = self.listed_on(tx.sql(), device.fingerprint).await? else { return Ok(None) };
        if row.listed.endpoint.as_ref().is_some_and(|endpoint| endpoint != device.endpoint) {
            return Ok(None);
        }
        let trusted = sqlx::query("SELECT 1 FROM authorities WHERE account = $1 AND id = $2 AND revoked IS NULL")
            .bind(self.id())
            .bind(device.authority)
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot("look for an authority"))?;
        Ok(trusted.map(|_| row))
    }

    async fn join(
        &self,
        tx: &mut Transaction,
        (device, labels): (FactoryIdentity<'_>, Labelled),
        now: UnixSeconds,
    ) -> Result<Standing, StoreError> {
        let doing = "enrol a device";
        // Until it registers for the first time it has promised nothing but to come.
        let first = Promise::new(FIRST_LIFETIME, false).deadlines(now, now);
        let made = sqlx::query(
            "INSERT INTO devices
                 (account, endpoint, authority, factory_serial, created, last_seen, factory_fingerprint, late_at, lost_at)
             VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8) ON CONFLICT (account, endpoint) DO NOTHING",
        )
        .bind(self.id())
        .bind(device.endpoint.as_str())
        .bind(device.authority)
        .bind(device.serial)
        .bind(to_sql(now.0))
        .bind(device.fingerprint.as_slice())
        .bind(to_sql(first.late.0))
        .bind(to_sql(first.lost.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let returned = sqlx::query(
            "UPDATE devices SET standing = 'active', standing_reason = NULL, decommissioned = NULL
             WHERE account = $1 AND endpoint = $2 AND standing = 'decommissioned'",
        )
        .bind(self.id())
        .bind(device.endpoint.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?
        .rows_affected()
            > 0;
        if made.rows_affected() > 0 || returned {
            self.join_rollouts_anew(tx, device.endpoint, now).await?;
            let data = json!({ "authority": device.authority, "factory_serial": device.serial, "again": returned });
            self.tell(tx, device.endpoint, ("device.enrolled", data), now).await?;
        }
        if made.rows_affected() > 0 {
            if let Some(labels) = labels.as_ref().filter(|labels| **labels != DeviceChange::default()) {
                self.change_device_on(tx, device.endpoint, (labels, None), now).await?;
            }
        } else {
            sqlx::query(
                "UPDATE devices SET authority = $3, factory_serial = $4, last_seen = $5, factory_fingerprint = $6
                 WHERE account = $1 AND endpoint = $2",
            )
            .bind(self.id())
            .bind(device.endpoint.as_str())
            .bind(device.authority)
            .bind(device.serial)
            .bind(to_sql(now.0))
            .bind(device.fingerprint.as_slice())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        }
        if labels.is_some() {
            self.note_joined(tx, device.fingerprint, now).await?;
        }
        Ok(Standing::Active)
    }
}
