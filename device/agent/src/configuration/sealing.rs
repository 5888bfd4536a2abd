//! The key pair to which secrets of this device are sealed: HPKE (RFC 9180) in base mode, with X25519, HKDF-SHA256 and ChaCha20-Poly1305.
//! It is made once, kept in the state, and never leaves the device. Never seals anything.

use std::{collections::BTreeMap, fmt};

use data_encoding::BASE64URL_NOPAD;
use protocol_types::{
    AccountName, AppName, EndpointName, SealedSecret, SealedSecrets, SecretName, recovery::RecoveryKey,
    socket::SecretValue,
};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as HPKE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Bytes of an encapsulated key and of a private key.
const KEY_BYTES: usize = 32;

/// Secrets in the clear, by application and name.
pub(crate) type OpenSecrets = BTreeMap<AppName, BTreeMap<SecretName, SecretValue>>;

/// A secret that this device cannot open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("secret {name} of application {application} was not sealed to this device")]
pub struct NotForUs {
    application: AppName,
    name: SecretName,
}

/// The operating system gives no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key pair for secrets cannot be made")]
pub struct NoKey;

/// The key pair.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "KeptKey", into = "KeptKey")]
pub struct SealingKey {
    private: Zeroizing<Vec<u8>>,
    public: RecoveryKey,
}

/// The key pair as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptKey {
    private: String,
    public: RecoveryKey,
}

impl TryFrom<KeptKey> for SealingKey {
    type Error = &'static str;
    fn try_from(kept: KeptKey) -> Result<Self, Self::Error> {
        let text = Zeroizing::new(kept.private);
        let private = BASE64URL_NOPAD.decode(text.as_bytes()).map(Zeroizing::new);
        let private = private.ok().filter(|key| key.len() == KEY_BYTES).ok_or("a private key has 32 bytes")?;
        Ok(Self { private, public: kept.public })
    }
}

impl From<SealingKey> for KeptKey {
    fn from(key: SealingKey) -> Self {
        Self { private: BASE64URL_NOPAD.encode(&key.private), public: key.public }
    }
}

impl Clone for SealingKey {
    fn clone(&self) -> Self {
        Self { private: self.private.clone(), public: self.public }
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl SealingKey {
    /// A new key pair.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub fn generate() -> Result<Self, NoKey> {
        let (public, private) = HPKE.generate_key_pair().map_err(|_| NoKey)?;
        let public = public.0.try_into().map(RecoveryKey::from_bytes).map_err(|_| NoKey)?;
        Ok(Self { private: Zeroizing::new(private.secret_bytes().to_vec()), public })
    }

    /// The half that the service is told.
    pub const fn public(&self) -> RecoveryKey {
        self.public
    }

    /// Opens all secrets of a document for the device `owner`, or none.
    ///
    /// # Errors
    /// Names the first secret that was sealed to another key, or for another device, application, name or version.
    pub(crate) fn open(
        &self,
        owner: (&AccountName, &EndpointName),
        secrets: &SealedSecrets,
    ) -> Result<OpenSecrets, NotForUs> {
        let mut open = OpenSecrets::new();
        for (application, of_app) in secrets {
            for (name, secret) in of_app {
                let value = self.open_one(secret, &SealedSecret::bound_to(owner, (application, name), secret.version));
                let value = value.ok_or_else(|| NotForUs { application: application.clone(), name: name.clone() })?;
                open.entry(application.clone()).or_default().insert(name.clone(), SecretValue::new(value));
            }
        }
        Ok(open)
    }

    fn open_one(&self, secret: &SealedSecret, bound_to: &str) -> Option<Vec<u8>> {
        let bytes = BASE64URL_NOPAD.decode(secret.sealed.as_bytes()).ok()?;
        let (encapsulated, ciphertext) = bytes.split_at_checked(KEY_BYTES)?;
        let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
        let private = HpkePrivateKey::from(self.private.to_vec());
        HPKE.open(&encapsulated, SealedSecret::PURPOSE, bound_to.as_bytes(), ciphertext, &private).ok()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::hpke::HpkePublicKey;

    use super::*;

    fn sealed(to: &SealingKey, bound_to: &str, value: &[u8]) -> String {
        let key = HpkePublicKey(to.public().as_bytes().to_vec());
        let (encapsulated, text) = HPKE.seal(SealedSecret::PURPOSE, bound_to.as_bytes(), value, &key).unwrap();
        BASE64URL_NOPAD.encode(&[encapsulated.0, text].concat())
    }

    #[test]
    fn a_secret_opens_on_its_device_as_what_it_is_and_as_nothing_else() {
        let key = SealingKey::generate().unwrap();
        let (account, endpoint) = ("acme".parse().unwrap(), "gate-1".parse().unwrap());
        let (application, name) = ("hello".parse().unwrap(), "token".parse().unwrap());
        let bound_to = SealedSecret::bound_to((&account, &endpoint), (&application, &name), 2);
        let given = |application: &str, name: &str, version, to: &SealingKey| {
            let secret = SealedSecret { version, sealed: sealed(to, &bound_to, b"swordfish") };
            let of_app = BTreeMap::from([(name.parse().unwrap(), secret)]);
            SealedSecrets::from([(application.parse().unwrap(), of_app)])
        };
        let open = key.open((&account, &endpoint), &given("hello", "token", 2, &key)).unwrap();
        assert_eq!(open[&application][&name].as_bytes(), b"swordfish");
        assert!(!format!("{open:?} {key:?}").contains("swordfish"));
        let stranger = SealingKey::generate().unwrap();
        for moved in [
            given("other", "token", 2, &key),
            given("hello", "other", 2, &key),
            given("hello", "token", 3, &key),
            given("hello", "token", 2, &stranger),
        ] {
            assert!(key.open((&account, &endpoint), &moved).is_err(), "{moved:?}");
        }
        assert!(key.open((&account, &"gate-2".parse().unwrap()), &given("hello", "token", 2, &key)).is_err());
    }

    #[test]
    fn a_kept_key_opens_what_was_sealed_to_it_before() {
        let key = SealingKey::generate().unwrap();
        let text = serde_json::to_string(&key).unwrap();
        let again: SealingKey = serde_json::from_str(&text).unwrap();
        let secret = SealedSecret { version: 1, sealed: sealed(&key, "x", b"y") };
        assert_eq!(again.open_one(&secret, "x").unwrap(), b"y");
        for damaged in ["", "AAAA", "?", &secret.sealed[..60]] {
            let secret = SealedSecret { version: 1, sealed: damaged.to_owned() };
            assert_eq!(again.open_one(&secret, "x"), None);
        }
    }
}
