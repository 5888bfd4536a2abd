//! Joining, registering and presence: who is admitted, by which certificate, and who is there. Never verifies a signature.
//!
//! Two rules notice a clone: a device that has used a certificate never shows an older one again, and never answers in two
//! places at once. Whoever breaks one is quarantined until an operator has looked.

use protocol_types::{AccountName, EndpointName, ReasonCode, UnixSeconds};
use serde_json::{Value, json};
use sqlx::Row;

use crate::{
    AccountScope, DeviceChange, EventDraft, Fingerprint, ListedRow, Promise, QuotaKind, ServiceWide, Standing,
    StoreError, enrolments, error::cannot, events, numbers::to_sql, transaction::Transaction,
};

/// What a device shows when it bootstraps.
#[derive(Clone, Copy, Debug)]
pub struct FactoryIdentity<'a> {
    /// Its name.
    pub endpoint: &'a EndpointName,
    /// The authority that its chain ends at.
    pub authority: &'a str,
    /// Serial number of its factory certificate.
    pub serial: &'a str,
    /// SHA-256 of its factory certificate.
    pub fingerprint: &'a Fingerprint,
}

/// An operational certificate that is about to be handed out.
#[derive(Clone, Copy, Debug)]
pub struct NewCertificate<'a> {
    /// Its serial number.
    pub serial: &'a str,
    /// What the device showed when it asked.
    pub parent: Parent<'a>,
    /// When it ends.
    pub not_after: UnixSeconds,
}

/// The certificate that a device shows when it asks for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent<'a> {
    /// The factory certificate of this serial number.
    Factory(&'a str),
    /// The operational certificate of this serial number.
    Operational(&'a str),
}

/// Something about the presence of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceFact {
    /// Its account.
    pub account: AccountName,
    /// The device.
    pub endpoint: EndpointName,
    /// What happened.
    pub what: Presence,
}

/// What happened to the presence of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It asks to register with the operational certificate of this serial number.
    Registers {
        /// The serial number.
        serial: String,
        /// The connection, by a number that no other has.
        session: u64,
        /// What it promises.
        promise: Promise,
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

/// What a list gives to a device that joins by it.
type Labelled = Option<DeviceChange>;

/// Whether a device may do what it asks, and how it stands; refused devices hear the code.
pub type Verdict = Result<Standing, ReasonCode>;

/// Seconds in which a device that has joined is expected to register for the first time.
const FIRST_LIFETIME: u32 = 300;
/// Certificates of one device that are remembered; asking for more without using them forgets the oldest.
const MAX_CERTIFICATES: i64 = 16;

/// What the directory knows of a device that shows a certificate.
struct Shown {
    standing: Standing,
    connected: bool,
    /// Number of the certificate, if it is one of the device's.
    number: Option<i64>,
    is_new: bool,
    /// The highest number that the device has used.
    newest_used: i64,
}

impl Shown {
    fn is_stale(&self) -> bool {
        self.number.is_some_and(|number| number < self.newest_used)
    }
}

impl AccountScope {
    /// Admits a device whose factory certificate was verified, if an enrolment allows it, and puts it into the directory.
    pub async fn admit(&self, device: FactoryIdentity<'_>, now: UnixSeconds) -> Result<Verdict, StoreError> {
        let mut tx = self.write().await?;
        let verdict = match self.may_join(&mut tx, device, now).await? {
            Ok(labels) => Ok(self.join(&mut tx, (device, labels), now).await?),
            Err(reason) => {
                enrolments::note_denial(&mut tx, self, (device.endpoint, reason), now).await?;
                Err(reason)
            }
        };
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
            Some(row) => Some(Standing::read(&row.try_get::<String, _>("standing").map_err(cannot(doing))?)?),
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

    /// Records a certificate before the device hears of it; on a refusal it must not be handed out.
    pub async fn record_certificate(
        &self,
        endpoint: &EndpointName,
        certificate: NewCertificate<'_>,
        now: UnixSeconds,
    ) -> Result<Verdict, StoreError> {
        let (parent, from_factory) = match certificate.parent {
            Parent::Factory(serial) => (serial, true),
            Parent::Operational(serial) => (serial, false),
        };
        let mut tx = self.write().await?;
        let verdict = match self.shown(&mut tx, endpoint, parent).await? {
            None => Err(ReasonCode::NotEnrolled),
            Some(shown) => match shown.standing {
                Standing::Decommissioned => Err(ReasonCode::Decommissioned),
                Standing::Suspended => Err(ReasonCode::Suspended),
                Standing::Quarantined => Err(ReasonCode::Quarantined),
                Standing::Active if !from_factory && shown.number.is_none() => Err(ReasonCode::CertificateUnknown),
                Standing::Active if !from_factory && shown.is_stale() => {
                    let why = "a certificate was renewed from one that the device had replaced";
                    self.quarantine(&mut tx, endpoint, why, now).await?;
                    Err(ReasonCode::Quarantined)
                }
                Standing::Active => Ok(Standing::Active),
            },
        };
        match verdict {
            Ok(_) => {
                self.insert_certificate(&mut tx, endpoint, (certificate, parent, from_factory), now).await?;
                if from_factory {
                    self.end_reset(&mut tx, endpoint, now).await?;
                }
            }
            Err(reason) => enrolments::note_denial(&mut tx, self, (endpoint, reason), now).await?,
        }
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
        let standing: String = row.try_get("standing").map_err(cannot(doing))?;
        let number: Option<i64> = row.try_get("number").map_err(cannot(doing))?;
        Ok(match Standing::read(&standing)? {
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

    async fn shown(
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
            let standing: String = row.try_get("standing").map_err(cannot(doing))?;
            Ok(Shown {
                standing: Standing::read(&standing)?,
                connected: optional("connected")? == Some(1),
                number: optional("number")?,
                is_new: optional("first_used")?.is_none(),
                newest_used: optional("newest_used")?.unwrap_or_default(),
            })
        })
        .transpose()
    }

    async fn quarantine(
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

    async fn presence(
        &self,
        tx: &mut Transaction,
        fact: &PresenceFact,
        now: UnixSeconds,
    ) -> Result<Verdict, StoreError> {
        let endpoint = &fact.endpoint;
        match &fact.what {
            Presence::Registers { serial, session, promise } => {
                self.registers(tx, endpoint, (serial, *session, *promise), now).await
            }
            Presence::Heard { promise } => {
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
            Presence::Left { session } => {
                self.left(tx, (endpoint, *session), now).await?;
                Ok(Ok(Standing::Active))
            }
            Presence::SeenTwice => {
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
    /// Records what happened to the presence of many devices in one transaction, and answers one verdict for each.
    pub async fn record_presence(&self, facts: &[PresenceFact], now: UnixSeconds) -> Result<Vec<Verdict>, StoreError> {
        let mut tx = self.store.write().await?;
        let mut verdicts = Vec::with_capacity(facts.len());
        for fact in facts {
            verdicts.push(self.store.account(&fact.account).presence(&mut tx, fact, now).await?);
        }
        tx.commit().await?;
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::{
        boot_record::Format1,
        recovery::{RecoveryKey, Sealed, SealedRecoveryKey},
    };

    use super::*;
    use crate::{
        EnrolmentRule, NewAuthority, RecoveryRow,
        tests::{Database, NOW},
    };

    fn name(text: &str) -> EndpointName {
        EndpointName::new(text).unwrap()
    }

    async fn trusting(db: &Database, account: &str) -> (AccountScope, String) {
        let scope = db.account(account).await;
        let authority = NewAuthority {
            name: "factory".into(),
            subject: "CN=factory".into(),
            fingerprint: "00".repeat(32),
            certificate: vec![0x30, 0x00],
            not_after: NOW,
        };
        let id = scope.add_authority(&authority, None, NOW).await.unwrap().id;
        (scope, id)
    }

    /// The account `one`, whose enrolled authority has let `gate-1` in.
    async fn admitted() -> (Database, AccountScope, String) {
        let db = Database::new().await;
        let (scope, ca) = trusting(&db, "one").await;
        scope.add_enrolment(&EnrolmentRule::Authority(ca.clone()), NOW).await.unwrap();
        admit(&scope, "gate-1", &ca).await.unwrap();
        (db, scope, ca)
    }

    async fn admit(scope: &AccountScope, endpoint: &str, authority: &str) -> Verdict {
        let endpoint = name(endpoint);
        scope
            .admit(FactoryIdentity { endpoint: &endpoint, authority, serial: "f0", fingerprint: &[0; 32] }, NOW)
            .await
            .unwrap()
    }

    async fn issue(scope: &AccountScope, endpoint: &str, serial: &str, parent: Parent<'_>) -> Verdict {
        let not_after = UnixSeconds(NOW.0 + 1000);
        scope.record_certificate(&name(endpoint), NewCertificate { serial, parent, not_after }, NOW).await.unwrap()
    }

    async fn register(db: &Database, scope: &AccountScope, endpoint: &str, serial: &str) -> Verdict {
        let what = Presence::Registers { serial: serial.into(), session: 7, promise: Promise::new(300, false) };
        let fact = PresenceFact { account: scope.name().clone(), endpoint: name(endpoint), what };
        db.store.service_wide().record_presence(&[fact], NOW).await.unwrap()[0]
    }

    async fn kinds(scope: &AccountScope) -> Vec<String> {
        scope.events_after(0, 100).await.unwrap().into_iter().map(|event| event.kind).collect()
    }

    #[tokio::test]
    async fn only_an_enrolment_of_the_own_account_admits_a_device() {
        let db = Database::new().await;
        let (one, ca) = trusting(&db, "one").await;
        let (two, _) = trusting(&db, "two").await;
        two.add_enrolment(&EnrolmentRule::Endpoint(name("gate-1")), NOW).await.unwrap();
        assert_eq!(admit(&one, "gate-1", &ca).await, Err(ReasonCode::NotEnrolled));
        one.add_enrolment(&EnrolmentRule::Endpoint(name("gate-1")), NOW).await.unwrap();
        assert_eq!(admit(&one, "gate-1", &ca).await, Ok(Standing::Active));
        assert_eq!(admit(&one, "gate-2", &ca).await, Err(ReasonCode::NotEnrolled));
        assert!(matches!(two.device(&name("gate-1")).await, Err(StoreError::NotFound { .. })));
        let denied = one.denials_before(None, 10).await.unwrap();
        let seen: Vec<_> = denied.iter().map(|d| (d.endpoint.as_str(), d.reason.as_str(), d.attempts)).collect();
        assert_eq!(seen, [("gate-1", "not_enrolled", 1), ("gate-2", "not_enrolled", 1)]);
    }

    #[tokio::test]
    async fn an_enrolled_authority_admits_every_device_until_it_is_revoked() {
        let db = Database::new().await;
        let (scope, ca) = trusting(&db, "one").await;
        scope.add_enrolment(&EnrolmentRule::Authority(ca.clone()), NOW).await.unwrap();
        assert_eq!(admit(&scope, "gate-1", &ca).await, Ok(Standing::Active));
        assert_eq!(admit(&scope, "gate-1", "ca-9").await, Err(ReasonCode::NotEnrolled));
        scope.revoke_authority(&ca, NOW).await.unwrap();
        assert_eq!(admit(&scope, "gate-2", &ca).await, Err(ReasonCode::NotEnrolled));
        assert_eq!(db.store.service_wide().trusted_authorities().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_device_registers_with_a_recorded_certificate_only() {
        let db = Database::new().await;
        let (scope, ca) = trusting(&db, "one").await;
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::NotEnrolled));
        scope.add_enrolment(&EnrolmentRule::Authority(ca.clone()), NOW).await.unwrap();
        admit(&scope, "gate-1", &ca).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::CertificateUnknown));
        issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
        assert!(scope.device(&name("gate-1")).await.unwrap().connected);
        scope.suspend_device(&name("gate-1"), "stolen", NOW).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::Suspended));
        assert_eq!(admit(&scope, "gate-1", &ca).await, Err(ReasonCode::Suspended));
        assert_eq!(issue(&scope, "gate-1", "02", Parent::Factory("f0")).await, Err(ReasonCode::Suspended));
        scope.resume_device(&name("gate-1"), NOW).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
    }

    #[tokio::test]
    async fn a_factory_reset_is_told_until_the_device_took_it_or_enrols_anew() {
        let (_db, scope, _) = admitted().await;
        let gate = name("gate-1");
        assert!(!scope.begin_reset(&gate).await.unwrap(), "nobody asked");
        assert_eq!(scope.ask_reset(&gate, NOW).await.unwrap().reset_asked, Some(NOW));
        scope.ask_reset(&gate, NOW).await.unwrap();
        // A yes to what was never told belongs to an earlier reset.
        scope.reset_taken(&gate, NOW).await.unwrap();
        assert!(scope.begin_reset(&gate).await.unwrap());
        assert!(scope.begin_reset(&gate).await.unwrap(), "an answer that was lost is asked for again");
        scope.reset_taken(&gate, NOW).await.unwrap();
        assert!(!scope.begin_reset(&gate).await.unwrap());

        scope.ask_reset(&gate, NOW).await.unwrap();
        issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
        assert!(scope.begin_reset(&gate).await.unwrap(), "it enrolled before it could hear of the reset");
        issue(&scope, "gate-1", "02", Parent::Operational("01")).await.unwrap();
        assert!(scope.begin_reset(&gate).await.unwrap(), "it renewed, so its state is there");
        issue(&scope, "gate-1", "03", Parent::Factory("f0")).await.unwrap();
        assert!(!scope.begin_reset(&gate).await.unwrap(), "it enrolled anew after it had heard");
        let told = kinds(&scope).await;
        let count = |kind| told.iter().filter(|told| *told == kind).count();
        assert_eq!((count("device.reset_asked"), count("device.reset_taken")), (2, 2));
        assert!(scope.ask_reset(&name("gate-2"), NOW).await.is_err());
    }

    fn recovery_key(volume: u8, byte: u8) -> SealedRecoveryKey {
        SealedRecoveryKey {
            format: Format1,
            recipient: RecoveryKey::from_bytes([7; 32]),
            volume: format!("7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c{volume:02x}").parse().unwrap(),
            sealed: Sealed::new(&[byte; 32], &[byte; 80]).unwrap(),
        }
    }

    #[tokio::test]
    async fn recovery_keys_are_kept_for_the_newest_volumes_and_each_fetch_is_on_record() {
        let (_db, scope, _) = admitted().await;
        let gate = name("gate-1");
        assert!(scope.fetch_recovery_keys(&gate, "t1", NOW).await.unwrap().is_empty());
        let first = recovery_key(1, 1);
        for _ in 0..3 {
            scope.keep_recovery_key(&gate, &first, NOW).await.unwrap();
        }
        // The slot of the same volume was made anew.
        let again = recovery_key(1, 2);
        scope.keep_recovery_key(&gate, &again, NOW).await.unwrap();
        let fetched = scope.fetch_recovery_keys(&gate, "t1", NOW).await.unwrap();
        assert_eq!(fetched, [RecoveryRow { sealed: again, received: NOW }]);
        for volume in 2..=6 {
            scope.keep_recovery_key(&gate, &recovery_key(volume, 1), NOW).await.unwrap();
        }
        let kept: Vec<SealedRecoveryKey> =
            scope.fetch_recovery_keys(&gate, "t2", NOW).await.unwrap().into_iter().map(|row| row.sealed).collect();
        assert_eq!(kept, [6, 5, 4, 3].map(|volume| recovery_key(volume, 1)));
        let events = scope.events_after(0, 100).await.unwrap();
        let by = |kind: &str| events.iter().filter(|event| event.kind == kind).collect::<Vec<_>>();
        assert_eq!(by("device.recovery_key_kept").len(), 7);
        let fetches: Vec<&Value> = by("device.recovery_key_fetched").iter().map(|event| &event.data["by"]).collect();
        assert_eq!(fetches, ["t1", "t2"]);
        scope.delete_device(&gate, NOW).await.unwrap();
        assert!(scope.fetch_recovery_keys(&gate, "t1", NOW).await.is_err(), "they go with the device");
    }

    #[tokio::test]
    async fn an_older_certificate_after_a_newer_one_was_used_quarantines_the_identity() {
        let (db, scope, _) = admitted().await;
        issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
        issue(&scope, "gate-1", "02", Parent::Operational("01")).await.unwrap();
        // The answer was lost on the way: the device still has the old one and asks again.
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Active));
        issue(&scope, "gate-1", "03", Parent::Operational("01")).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "03").await, Ok(Standing::Active));
        assert!(!kinds(&scope).await.contains(&"device.quarantined".to_owned()), "an honest device was quarantined");
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Ok(Standing::Quarantined));
        assert_eq!(issue(&scope, "gate-1", "04", Parent::Operational("03")).await, Err(ReasonCode::Quarantined));
        assert!(kinds(&scope).await.contains(&"device.quarantined".to_owned()));
    }

    #[tokio::test]
    async fn a_renewal_from_a_replaced_certificate_quarantines_and_issues_nothing() {
        let (db, scope, _) = admitted().await;
        issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
        issue(&scope, "gate-1", "02", Parent::Factory("f0")).await.unwrap();
        register(&db, &scope, "gate-1", "02").await.unwrap();
        assert_eq!(issue(&scope, "gate-1", "03", Parent::Operational("01")).await, Err(ReasonCode::Quarantined));
        let serials: Vec<_> = scope.device_certificates(&name("gate-1"), NOW).await.unwrap();
        assert_eq!(serials.iter().map(|c| c.serial.as_str()).collect::<Vec<_>>(), ["02", "01"]);
        assert_eq!(scope.device(&name("gate-1")).await.unwrap().standing, Standing::Quarantined);
    }

    #[tokio::test]
    async fn asking_for_certificates_without_using_them_fills_no_table() {
        let (_db, scope, _) = admitted().await;
        for n in 0..40 {
            issue(&scope, "gate-1", &format!("{n:02}"), Parent::Factory("f0")).await.unwrap();
        }
        let kept = scope.device_certificates(&name("gate-1"), NOW).await.unwrap();
        assert_eq!((kept.len(), kept[0].serial.as_str()), (16, "39"));
    }

    #[tokio::test]
    async fn a_deleted_device_takes_its_certificates_with_it() {
        let (db, scope, ca) = admitted().await;
        issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
        scope.delete_device(&name("gate-1"), NOW).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::NotEnrolled));
        admit(&scope, "gate-1", &ca).await.unwrap();
        assert_eq!(register(&db, &scope, "gate-1", "01").await, Err(ReasonCode::CertificateUnknown));
    }

    #[tokio::test]
    async fn presence_is_told_once_and_nobody_is_connected_after_a_restart() {
        let (db, scope, _) = admitted().await;
        issue(&scope, "gate-1", "01", Parent::Factory("f0")).await.unwrap();
        for _ in 0..3 {
            register(&db, &scope, "gate-1", "01").await.unwrap();
        }
        let told = |kinds: Vec<String>, kind: &str| kinds.iter().filter(|k| *k == kind).count();
        assert_eq!(told(kinds(&scope).await, "device.connected"), 1);
        let left = |session| PresenceFact {
            account: scope.name().clone(),
            endpoint: name("gate-1"),
            what: Presence::Left { session },
        };
        db.store.service_wide().record_presence(&[left(6)], NOW).await.unwrap();
        assert!(scope.device(&name("gate-1")).await.unwrap().connected, "an older connection ended the newer one");
        db.store.service_wide().record_presence(&[left(7), left(7)], NOW).await.unwrap();
        assert_eq!(told(kinds(&scope).await, "device.disconnected"), 1);
        register(&db, &scope, "gate-1", "01").await.unwrap();
        let db = db.reopen().await;
        assert_eq!(db.store.service_wide().nobody_is_connected(NOW).await.unwrap(), 1);
        assert!(!db.account("one").await.device(&name("gate-1")).await.unwrap().connected);
    }
}
