//! Public keys and their ids, as metadata names them. Never holds a private key.

use std::{fmt, str::FromStr};

use aws_lc_rs::signature::{self, VerificationAlgorithm};
use serde::{Deserialize, Serialize};
use tough::schema::{
    decoded::{Decoded, Hex},
    key::Key,
};

/// The id of a key: the SHA-256 digest of its canonical JSON form, as lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    pub(crate) fn of(bytes: &Decoded<Hex>) -> Self {
        Self(hex::encode(bytes))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key in the form that metadata carries it: `{"keytype":…,"scheme":…,"keyval":{"public":…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Key", into = "Key")]
pub struct PublicKey {
    key: Key,
    id: Decoded<Hex>,
}

/// A text or value that is not a public key.
#[derive(Debug, thiserror::Error)]
#[error("not a public key in the form of The Update Framework")]
pub struct PublicKeyError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl PublicKey {
    /// Its id.
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.id)
    }

    /// Whether `signature` is one by this key over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        verifies(&self.key, message, signature)
    }

    pub(crate) fn raw_id(&self) -> &Decoded<Hex> {
        &self.id
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

impl TryFrom<Key> for PublicKey {
    type Error = PublicKeyError;
    fn try_from(key: Key) -> Result<Self, PublicKeyError> {
        let id = key.key_id().map_err(|e| PublicKeyError(Box::new(e)))?;
        Ok(Self { key, id })
    }
}

impl From<PublicKey> for Key {
    fn from(key: PublicKey) -> Self {
        key.key
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;
    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        serde_json::from_str(text).map_err(|e| PublicKeyError(Box::new(e)))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.key).map_err(|_| fmt::Error)?)
    }
}

/// Whether `signature` is one by `key` over `message`; `tough` keeps its own check to itself.
pub(super) fn verifies(key: &Key, message: &[u8], signature: &[u8]) -> bool {
    let (algorithm, public): (&dyn VerificationAlgorithm, &[u8]) = match key {
        Key::Ed25519 { keyval, .. } => (&signature::ED25519, &keyval.public),
        Key::Ecdsa { keyval, .. } | Key::EcdsaOld { keyval, .. } => {
            (&signature::ECDSA_P256_SHA256_ASN1, &keyval.public)
        }
        Key::Rsa { keyval, .. } => (&signature::RSA_PSS_2048_8192_SHA256, &keyval.public),
    };
    algorithm.verify_sig(public, message, signature).is_ok()
}
