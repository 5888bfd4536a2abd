//! A key that is in a token: which one it is, its public half, and a way to ask for signatures.

use cryptoki::object::Attribute;
use data_encoding::HEXLOWER;
use rustls::{
    Error as TlsError, SignatureAlgorithm, SignatureScheme,
    pki_types::SubjectPublicKeyInfoDer,
    sign::{Signer, SigningKey, public_key_to_spki},
};
use rustls_pki_types::alg_id;
use serde::{Deserialize, Serialize};

use super::token::TokenStore;
use crate::cause::Chain;

/// What the device key is called in the token.
const DEVICE_LABEL: &str = "device-key";
/// What every key of an operational certificate is called.
pub(super) const OPERATIONAL_LABEL: &str = "operational-key";

/// Tells one operational key of a token from every other: 16 random bytes, as text 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct KeyId(pub(super) [u8; 16]);

impl TryFrom<String> for KeyId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| "the id of a key has 32 hexadecimal digits in lower case".to_owned())
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        HEXLOWER.encode(&id.0)
    }
}

/// Which key of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The one that the factory certificate is for.
    Device,
    /// One that an operational certificate is for.
    Operational(KeyId),
}

impl Which {
    /// What both halves of the key have and no other key has.
    pub(super) fn named(self) -> [Attribute; 2] {
        match self {
            Self::Device => [Attribute::Label(DEVICE_LABEL.into()), Attribute::Id(DEVICE_LABEL.into())],
            Self::Operational(KeyId(id)) => [Attribute::Label(OPERATIONAL_LABEL.into()), Attribute::Id(id.to_vec())],
        }
    }
}

/// A key in a token: its public half, and a way to ask for signatures.
#[derive(Clone, Debug)]
pub(super) struct TokenKey {
    pub(super) store: TokenStore,
    pub(super) which: Which,
    /// Uncompressed, as in SEC 1, section 2.3.3.
    pub(super) point: Vec<u8>,
}

impl rcgen::PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.store.sign(self.which, message).map_err(|e| {
            // rcgen's error carries no cause.
            tracing::error!(error = %Chain(&e), "the token did not sign a certificate request");
            rcgen::Error::RemoteKeyError
        })
    }
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(TokenSigner(self.store.clone(), self.which)) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&alg_id::ECDSA_P256, &self.point))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

#[derive(Debug)]
struct TokenSigner(TokenStore, Which);

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        self.0.sign(self.1, message).map_err(|e| TlsError::General(Chain(&e).to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
