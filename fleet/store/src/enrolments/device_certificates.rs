//! Operational certificates of devices: what is recorded before one is handed out, and what showing one means.
//!
//! Two rules notice a clone: a device that has used a certificate never shows an older one again, and never answers in two
//! places at once. Whoever breaks one is quarantined until an operator has looked.

use protocol_types::{EndpointName, ReasonCode, Standing, UnixSeconds};
use serde_json::json;
use sqlx::Row;

use crate::{
    AccountScope, StoreError, Verdict, devices, enrolments, error::cannot, numbers::to_sql, transaction::Transaction,
};

/// An operational certificate that is about to be handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewCertificate<'a> {
    /// Its serial number.
    pub(crate) serial: &'a str,
    /// What the device showed when it asked.
    pub(crate) parent: Parent<&'a str>,
    /// When it ends.
    pub(crate) not_after: UnixSeconds,
}

/// The certificate that a device shows when it asks for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent<Serial> {
    /// The factory certificate of this serial number.
    Factory(Serial),
    /// The operational certificate of this serial number.
    Operational(Serial),
}

impl Parent<String> {
    /// The same without its text.
    pub(crate) const fn as_ref(&self) -> Parent<&str> {
        match self {
            Self::Factory(serial) => Parent::Factory(serial.as_str()),
            Self::Operational(serial) => Parent::Operational(serial.as_str()),
        }
    }
}

/// Certificates of one device that are remembered; asking for more without using them forgets the oldest.
const MAX_CERTIFICATES: i64 = 16;

/// What the directory knows of a device that shows a certificate.
pub(crate) struct Shown {
    pub(crate) standing: Standing,
    pub(crate) connected: bool,
    /// Number of the certificate, if it is one of the device's.
    pub(crate) number: Option<i64>,
    pub(crate) is_new: bool,
    /// The highest number that the device has used.
    newest_used: i64,
}

impl Shown {
    pub(crate) fn is_stale(&self) -> bool {
        self.number.is_some_and(|number| number < self.newest_used)
    }
}

impl AccountScope {
    /// Records a certificate before the device hears of it; on a refusal it must not be handed out.
    pub(crate) async fn record_certificate_on(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        certificate: NewCertificate<'_>,
        now: UnixSeconds,
    ) -> Result<Verdict, StoreError> {
        let (parent, from_factory) = match certificate.parent {
            Parent::Factory(serial) => (serial, true),
            Parent::Operational(serial) => (serial, false),
        };
        let verdict = match self.shown(tx, endpoint, parent).await? {
            None => Err(ReasonCode::NotEnrolled),
            Some(shown) => match shown.standing {
                Standing::Decommissioned => Err(ReasonCode::Decommissioned),
                Standing::Suspended => Err(ReasonCode::Suspended),
                Standing::Quarantined => Err(ReasonCode::Quarantined),
                Standing::Active if !from_factory && shown.number.is_none() => Err(ReasonCode::CertificateUnknown),
                Standing::Active if !from_factory && shown.is_stale() => {
                    let why = "a certificate was renewed from one that the device had replaced";
                    self.quarantine(tx, endpoint, why, now).await?;
                    Err(ReasonCode::Quarantined)
                }
                Standing::Active => Ok(Standing::Active),
            },
        };
        match verdict {
            Ok(_) => {
                self.insert_certificate(tx, endpoint, (certificate, parent, from_factory), now).await?;
                if from_factory {
                    self.end_reset(tx, endpoint, now).await?;
                }
            }
            Err(reason) => enrolments::note_denial(tx, self, (endpoint, reason), now).await?,
        }
        Ok(verdict)
    }

    /// Records one certificate in a transaction of its own.
    #[cfg(test)]
    pub(crate) async fn record_certificate(
        &self,
        endpoint: &EndpointName,
        certificate: NewCertificate<'_>,
        now: UnixSeconds,
    ) -> Result<Verdict, StoreError> {
        let mut tx = self.write().await?;
        let verdict = self.record_certificate_on(&mut tx, endpoint, certificate, now).await?;
        tx.commit().await?;
        Ok(verdict)
    }

    /// Whether a device that shows the operational certificate of this serial number may have artifacts.
    pub async fn may_install(
        &self,
        endpoint: &EndpointName,
        serial: &str,
    ) -> Result<Result<(), ReasonCode>, StoreError> {
        let doing = "look up a certificate";
        let row = sqlx::query(
            "SELECT d.standing, c.number FROM devices d LEFT JOIN device_certificates c
             ON c.account = d.account AND c.endpoint = d.endpoint AND c.serial = $3
             WHERE d.account = $1 AND d.endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(serial)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(Err(ReasonCode::NotEnrolled)) };
        let standing = devices::standing(&row, doing)?;
        let number: Option<i64> = row.try_get("number").map_err(cannot(doing))?;
        Ok(match standing {
            Standing::Active if number.is_some() => Ok(()),
            Standing::Active => Err(ReasonCode::CertificateUnknown),
            Standing::Suspended => Err(ReasonCode::Suspended),
            Standing::Quarantined => Err(ReasonCode::Quarantined),
            Standing::Decommissioned => Err(ReasonCode::Decommissioned),
        })
    }

    async fn insert_certificate(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (certificate, parent, from_factory): (NewCertificate<'_>, &str, bool),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "record a certificate";
        let row = sqlx::query(
            "INSERT INTO device_certificates (account, endpoint, serial, number, parent, from_factory, issued, not_after)
             SELECT $1, $2, $3, COALESCE(MAX(number), 0) + 1, $4, $5, $6, $7
             FROM device_certificates WHERE account = $1 AND endpoint = $2 RETURNING number",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(certificate.serial)
        .bind(parent)
        .bind(i64::from(from_factory))
        .bind(to_sql(now.0))
        .bind(to_sql(certificate.not_after.0))
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let number: i64 = row.try_get("number").map_err(cannot(doing))?;
        sqlx::query(
            "DELETE FROM device_certificates WHERE account = $1 AND endpoint = $2 AND (not_after < $3 OR number <= $4)",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(now.0))
        .bind(number - MAX_CERTIFICATES)
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let data = json!({ "serial": certificate.serial, "parent": parent, "from_factory": from_factory });
        self.tell(tx, endpoint, ("device.certificate_issued", data), now).await
    }

    pub(crate) async fn shown(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        serial: &str,
    ) -> Result<Option<Shown>, StoreError> {
        let doing = "look up a certificate";
        let row = sqlx::query(
            "SELECT d.standing, d.connected, c.number, c.first_used,
                    (SELECT MAX(u.number) FROM device_certificates u
                     WHERE u.account = $1 AND u.endpoint = $2 AND u.first_used IS NOT NULL) AS newest_used
             FROM devices d LEFT JOIN device_certificates c
             ON c.account = d.account AND c.endpoint = d.endpoint AND c.serial = $3
             WHERE d.account = $1 AND d.endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(serial)
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        row.map(|row| {
            let optional = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
            Ok(Shown {
                standing: devices::standing(&row, doing)?,
                connected: optional("connected")? == Some(1),
                number: optional("number")?,
                is_new: optional("first_used")?.is_none(),
                newest_used: optional("newest_used")?.unwrap_or_default(),
            })
        })
        .transpose()
    }

    pub(crate) async fn quarantine(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        why: &str,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE devices SET standing = 'quarantined', standing_reason = $3
             WHERE account = $1 AND endpoint = $2 AND standing = 'active'",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(why)
        .execute(tx.sql())
        .await
        .map_err(cannot("quarantine a device"))?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        self.standing_changed(tx, endpoint);
        self.tell(tx, endpoint, ("device.quarantined", json!({ "reason": why })), now).await
    }
}
