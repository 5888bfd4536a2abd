//! Private keys in memory: made here or read from PKCS#8. Never written to a disk, never printed.

use std::{error::Error, fmt};

use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use tough::{
    key_source::KeySource,
    sign::{Sign, parse_keypair},
};
use zeroize::Zeroizing;

use crate::metadata::{KeyId, PublicKey};

/// The algorithm of a new key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    #[default]
    Ed25519,
    /// ECDSA with the curve P-256 and SHA-256, for tokens and modules that know no other.
    EcdsaP256,
}

/// A private key, wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

/// A key that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random source or the library failed.
    #[error("cannot generate a key")]
    Generate,
    /// Not a private key that can sign metadata.
    #[error("not a PKCS#8 private key for Ed25519 or ECDSA P-256")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
}

impl SigningKey {
    /// Makes a new key from the operating system's random source.
    ///
    /// # Errors
    /// If the random source fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let document = match algorithm {
            Algorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
            Algorithm::EcdsaP256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
        };
        Self::from_pkcs8(document.map_err(|_| KeyError::Generate)?.as_ref())
    }

    /// Reads a PKCS#8 private key (RFC 5958) in DER.
    ///
    /// # Errors
    /// If it is not one for Ed25519 or ECDSA P-256.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = parse_keypair(der).map_err(|e| KeyError::Unreadable(Box::new(e)))?;
        let public = PublicKey::try_from(pair.tuf_key()).map_err(|e| KeyError::Unreadable(Box::new(e)))?;
        Ok(Self { pkcs8: Zeroizing::new(der.to_vec()), public })
    }

    /// The PKCS#8 form in DER, to be encrypted before it is stored.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The id of the public half.
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// The key as `tough` and this module take keys to sign with.
    pub fn source(&self) -> Box<dyn KeySource> {
        Box::new(self.clone())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id()).finish_non_exhaustive()
    }
}

#[async_trait]
impl KeySource for SigningKey {
    async fn as_sign(&self) -> Result<Box<dyn Sign>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(parse_keypair(&self.pkcs8)?))
    }

    async fn write(&self, _value: &str, _key_id: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("a key in memory has no place to be written to".into())
    }
}
