//! What devices do that they hear yes to only once it is on disk: join, get a certificate, register, report, leave. Many of these share
//! one transaction. Never verifies a signature.

use protocol_types::{AccountName, EndpointName, ReasonCode, Standing, UnixSeconds};
use serde_json::{Value, json};

use crate::{
    AccountScope, ComponentRow, DeviceReport, EventDraft, Fingerprint, Parent, Promise, ServiceWide, StoreError,
    enrolments::{
        self,
        admission::FactoryIdentity,
        device_certificates::{NewCertificate, Shown},
    },
    error::cannot,
    events,
    numbers::to_sql,
    transaction::Transaction,
};

/// Something that a device does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceFact {
    /// Its account.
    pub account: AccountName,
    /// The device.
    pub endpoint: EndpointName,
    /// What happened.
    pub what: DeviceEvent,
}

/// What a device does, or what happened to its presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// It bootstraps and asks to join; its factory certificate was verified.
    Joins {
        /// The authority that the chain of its factory certificate ends at.
        authority: String,
        /// Serial number of its factory certificate.
        serial: String,
        /// SHA-256 of its factory certificate.
        fingerprint: Fingerprint,
    },
    /// An operational certificate was signed for it; on a refusal it must not be handed out.
    Certified {
        /// Serial number of the operational certificate.
        serial: String,
        /// What the device showed when it asked.
        parent: Parent<String>,
        /// When the operational certificate ends.
        not_after: UnixSeconds,
    },
    /// It asks to register with the operational certificate of this serial number.
    Registers {
        /// The serial number.
        serial: String,
        /// The connection, by a number that no other has.
        session: u64,
        /// What it promises.
        promise: Promise,
    },
    /// It says what is installed and how its software is. Rollouts follow from it.
    Reports {
        /// Everything that is installed.
        components: Vec<ComponentRow>,
        /// How its software is.
        report: Box<DeviceReport>,
    },
    /// It was heard.
    Heard {
        /// What it promises from now on, if it says so.
        promise: Option<Promise>,
    },
    /// Its registration on this connection ended.
    Left {
        /// The connection; if the device has registered on another one since, nothing changes.
        session: u64,
    },
    /// It answers in two places at once.
    SeenTwice,
}

/// Whether a device may do what it asks, and how it stands; refused devices hear the code.
pub type Verdict = Result<Standing, ReasonCode>;

impl DeviceEvent {
    /// Whether it may fail for reasons of its own, such as a list that gives the device more labels than it may have.
    const fn may_fail_alone(&self) -> bool {
        match self {
            Self::Joins { .. } | Self::Certified { .. } | Self::Reports { .. } => true,
            Self::Registers { .. } | Self::Heard { .. } | Self::Left { .. } | Self::SeenTwice => false,
        }
    }
}

impl AccountScope {
    async fn presence(
        &self,
        tx: &mut Transaction,
        fact: &PresenceFact,
        now: UnixSeconds,
    ) -> Result<Verdict, StoreError> {
        let endpoint = &fact.endpoint;
        match &fact.what {
            DeviceEvent::Joins { authority, serial, fingerprint } => {
                self.admit_on(tx, FactoryIdentity { endpoint, authority, serial, fingerprint }, now).await
            }
            DeviceEvent::Certified { serial, parent, not_after } => {
                let certificate = NewCertificate { serial, parent: parent.as_ref(), not_after: *not_after };
                self.record_certificate_on(tx, endpoint, certificate, now).await
            }
            DeviceEvent::Reports { components, report } => {
                self.set_components_on(tx, endpoint, components).await?;
                self.record_report_on(tx, endpoint, report, now).await?;
                Ok(Ok(Standing::Active))
            }
            DeviceEvent::Registers { serial, session, promise } => {
                self.registers(tx, endpoint, (serial, *session, *promise), now).await
            }
            DeviceEvent::Heard { promise } => {
                sqlx::query("UPDATE devices SET last_seen = $3 WHERE account = $1 AND endpoint = $2")
                    .bind(self.id())
                    .bind(endpoint.as_str())
                    .bind(to_sql(now.0))
                    .execute(tx.sql())
                    .await
                    .map_err(cannot("note that a device was heard"))?;
                if let Some(promise) = promise {
                    self.promises(tx, endpoint, *promise).await?;
                }
                Ok(Ok(Standing::Active))
            }
            DeviceEvent::Left { session } => {
                self.left(tx, (endpoint, *session), now).await?;
                Ok(Ok(Standing::Active))
            }
            DeviceEvent::SeenTwice => {
                self.quarantine(tx, endpoint, "the device answered in two places at once", now).await?;
                Ok(Ok(Standing::Quarantined))
            }
        }
    }

    async fn registers(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (serial, session, promise): (&str, u64, Promise),
        now: UnixSeconds,
    ) -> Result<Verdict, StoreError> {
        let doing = "register a device";
        let refusal = match self.shown(tx, endpoint, serial).await? {
            None => ReasonCode::NotEnrolled,
            Some(Shown { standing: Standing::Suspended, .. }) => ReasonCode::Suspended,
            Some(Shown { standing: Standing::Decommissioned, .. }) => ReasonCode::Decommissioned,
            Some(Shown { number: None, .. }) => ReasonCode::CertificateUnknown,
            Some(shown) => {
                let mut standing = shown.standing;
                if shown.is_stale() {
                    let why = "a certificate was used after the device had replaced it";
                    self.quarantine(tx, endpoint, why, now).await?;
                    standing = Standing::Quarantined;
                } else if shown.is_new {
                    sqlx::query(
                        "UPDATE device_certificates SET first_used = $4 WHERE account = $1 AND endpoint = $2 AND serial = $3",
                    )
                    .bind(self.id())
                    .bind(endpoint.as_str())
                    .bind(serial)
                    .bind(to_sql(now.0))
                    .execute(tx.sql())
                    .await
                    .map_err(cannot(doing))?;
                }
                sqlx::query(
                    "UPDATE devices SET connected = 1, session = $4, last_seen = $3, presence_due = NULL
                     WHERE account = $1 AND endpoint = $2",
                )
                .bind(self.id())
                .bind(endpoint.as_str())
                .bind(to_sql(now.0))
                .bind(to_sql(session))
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
                self.promises(tx, endpoint, promise).await?;
                if !shown.connected {
                    tx.changed(self.device_changed(endpoint));
                    self.tell(tx, endpoint, ("device.connected", json!({ "serial": serial })), now).await?;
                }
                return Ok(Ok(standing));
            }
        };
        enrolments::note_denial(tx, self, (endpoint, refusal), now).await?;
        Ok(Err(refusal))
    }

    async fn promises(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        promise: Promise,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE devices SET lifetime = $3, sleeps = $4
             WHERE account = $1 AND endpoint = $2 AND (lifetime <> $3 OR sleeps <> $4)",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(i64::from(promise.lifetime()))
        .bind(i64::from(promise.sleeps()))
        .execute(tx.sql())
        .await
        .map(drop)
        .map_err(cannot("note what a device promises"))
    }

    /// Appends an event about a device.
    pub(crate) async fn tell(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (kind, data): (&str, Value),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        events::append(tx, self, now, EventDraft { kind, subject: format!("devices/{endpoint}"), data }).await
    }
}

impl ServiceWide {
    /// Records what many devices do in one transaction, and answers for each: one that fails leaves nothing behind and the others as
    /// they are.
    pub async fn record_presence(
        &self,
        facts: &[PresenceFact],
        now: UnixSeconds,
    ) -> Result<Vec<Result<Verdict, StoreError>>, StoreError> {
        let mut tx = self.store.write().await?;
        let mut verdicts = Vec::with_capacity(facts.len());
        for fact in facts {
            let account = self.store.account(&fact.account);
            if fact.what.may_fail_alone() {
                let part = tx.begin_part().await?;
                let done = account.presence(&mut tx, fact, now).await;
                tx.end_part(part, &done).await?;
                verdicts.push(done);
            } else {
                verdicts.push(Ok(account.presence(&mut tx, fact, now).await?));
            }
        }
        tx.commit().await?;
        Ok(verdicts)
    }
}
