//! Secrets on their way from the service to one device: opened with the key of the service, sealed to the key of the device by HPKE
//! (RFC 9180), and kept so, for the same secret must be the same text each time. Never keeps one in the clear.

use data_encoding::BASE64URL_NOPAD;
use fleet_store::{AccountScope, ConfigurationLevel, SealedRow, SecretRow, SentSecret, StoreError};
use protocol_types::{
    AccountName, AppName, EndpointName, SealedSecret, SecretName, UnixSeconds, recovery::RecoveryKey,
};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as HPKE,
    hpke::{Hpke as _, HpkePublicKey},
};
use serde_json::{Map, Value, json};

use crate::authority::SealingKey;

/// What the sealing key of the service is used for: a secret opens as this version of this secret of this level, and as nothing else.
pub(crate) fn sealed_for(
    account: &AccountName,
    level: &ConfigurationLevel,
    (application, name): (&AppName, &SecretName),
    version: u64,
) -> String {
    format!("configuration secret\n{account}\n{}\n{application}\n{name}\n{version}", level.source())
}

/// Why a secret cannot be sealed to a device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// What is in the database was sealed by another service.
    #[error("secret {0} cannot be opened with the sealing key of this service")]
    NotOurs(String),
    /// The key of the device is none, or there is no randomness.
    #[error("nothing can be sealed to the key of the device")]
    Key,
}

/// The secrets that a device has, and what is needed to give them to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceSecrets {
    /// The secrets, sealed by the service.
    pub(crate) wanted: Vec<SealedRow>,
    /// The key of the device, if it has said one.
    pub(crate) key: Option<RecoveryKey>,
    /// What was sealed to it before.
    sent: Vec<SentSecret>,
}

impl DeviceSecrets {
    /// As they are now.
    pub(crate) async fn read(
        account: &AccountScope,
        endpoint: &EndpointName,
        now: UnixSeconds,
    ) -> Result<Self, StoreError> {
        let wanted = account.secrets_of_device(endpoint, now).await?;
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let (key, sent) = (account.sealing_key(endpoint).await?, account.sent_secrets(endpoint).await?);
        Ok(Self { wanted, key, sent })
    }

    /// What was sealed of a secret before; `None` if it has changed, comes from another level, or the device has another key.
    fn before(&self, row: &SealedRow) -> Option<&SentSecret> {
        let (secret, source) = (&row.secret, row.secret.level.source());
        self.sent.iter().find(|sent| {
            (&sent.application, &sent.name, sent.version) == (&secret.application, &secret.name, secret.version)
                && sent.source == source
                && Some(sent.recipient) == self.key
        })
    }

    /// Seals to the device what was not before. Answers all that is to be kept if there is news; without a key of the device there is none.
    pub(crate) fn seal(
        &mut self,
        with: &SealingKey,
        owner: (&AccountName, &EndpointName),
    ) -> Result<Option<Vec<(&SealedRow, &SentSecret)>>, SealError> {
        let Some(key) = self.key else { return Ok(None) };
        let mut all = Vec::new();
        for row in &self.wanted {
            all.push(match self.before(row) {
                Some(sent) => sent.clone(),
                None => seal_one(row, with, owner, key)?,
            });
        }
        if all == self.sent {
            return Ok(None);
        }
        self.sent = all;
        Ok(Some(self.wanted.iter().zip(&self.sent).collect()))
    }

    /// Whether all of them were sealed to the key of the device.
    pub(crate) fn is_complete(&self) -> bool {
        self.wanted.iter().all(|row| self.before(row).is_some())
    }

    /// The part of the device's document; empty as long as not all of them were sealed to its key.
    pub(crate) fn document(&self) -> Map<String, Value> {
        let mut document: Map<String, Value> = Map::new();
        for row in &self.wanted {
            let Some(sent) = self.before(row) else { return Map::new() };
            let of_app = document.entry(sent.application.to_string()).or_insert_with(|| json!({}));
            let sealed = SealedSecret { version: row.secret.version, sealed: sent.sealed.clone() };
            if let (Value::Object(of_app), Ok(sealed)) = (of_app, serde_json::to_value(sealed)) {
                of_app.insert(sent.name.to_string(), sealed);
            }
        }
        document
    }
}

fn seal_one(
    row: &SealedRow,
    with: &SealingKey,
    owner: (&AccountName, &EndpointName),
    recipient: RecoveryKey,
) -> Result<SentSecret, SealError> {
    let SecretRow { level, application, name, version, .. } = &row.secret;
    let purpose = sealed_for(owner.0, level, (application, name), *version);
    let value = with.unseal(&purpose, &row.sealed).map_err(|_| SealError::NotOurs(format!("{application}/{name}")))?;
    let bound_to = SealedSecret::bound_to(owner, (application, name), *version);
    let key = HpkePublicKey(recipient.as_bytes().to_vec());
    let sealed = HPKE.seal(SealedSecret::PURPOSE, bound_to.as_bytes(), &value, &key).map_err(|_| SealError::Key)?;
    Ok(SentSecret {
        application: application.clone(),
        name: name.clone(),
        source: level.source(),
        version: *version,
        recipient,
        sealed: BASE64URL_NOPAD.encode(&[sealed.0.0, sealed.1].concat()),
    })
}
