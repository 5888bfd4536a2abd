//! The device key and the recorded digest of the factory document, in a token (TPM or TEE) or, where a board has none, in files.
//! The key is born here and never leaves; everything else asks for signatures or requests.

mod ecdsa;
mod files;
mod lockout;
mod store_copy;
mod token;
mod token_key;

use std::sync::Arc;

use protocol_types::{AccountName, Digest, EndpointName};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

pub use files::FileStore;
pub use lockout::LockoutError;
pub use token::{TokenError, TokenStore};

use crate::{config::TokenConfig, durable::DurableError, layout::DeviceFolder};
pub(crate) use token_key::KeyId;
use token_key::{TokenKey, Which};

/// The device's ECDSA P-256 key.
pub struct DeviceKey {
    form: Form,
    signing: Arc<dyn SigningKey>,
}

/// Where a key is. What is in a token can be asked for signatures and nothing else.
enum Form {
    Memory(KeyPair),
    Token(TokenKey),
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceKey").finish_non_exhaustive()
    }
}

/// A key store that cannot do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// A file of the key store cannot be read or written.
    #[error("the key store does not answer")]
    File(#[from] DurableError),
    /// The token does not do what it is asked.
    #[error("cannot use the token that holds the device key")]
    Token(#[from] TokenError),
    /// No key can be made.
    #[error("cannot make a device key")]
    Generate(#[source] rcgen::Error),
    /// The stored key is no ECDSA P-256 key.
    #[error("the stored device key is not an ECDSA P-256 key")]
    Key(#[source] rcgen::Error),
    /// The stored key cannot be used for TLS.
    #[error("the stored device key cannot be used for TLS")]
    Signing(#[source] rustls::Error),
    /// The recorded digest is not a digest.
    #[error("the recorded digest of the factory document is damaged")]
    Digest,
    /// The key of the operational certificate is not where it was kept.
    #[error("the key of the operational certificate is gone from the key store")]
    NoOperational,
    /// A certificate request cannot be made.
    #[error("cannot make a certificate request")]
    Request(#[source] rcgen::Error),
}

/// As what the key of an operational certificate is kept beside it.
#[derive(Clone)]
pub(crate) enum KeptKey {
    /// The key itself, for the eyes of the agent's own folder.
    Pem(Zeroizing<String>),
    /// Which key of the token it is.
    Token(KeyId),
}

impl DeviceKey {
    /// A new key that exists in memory alone.
    pub fn generate() -> Result<Self, KeyStoreError> {
        Self::generate_with_pem().map(|(key, _)| key)
    }

    pub(crate) fn generate_with_pem() -> Result<(Self, Zeroizing<String>), KeyStoreError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyStoreError::Generate)?;
        let text = Zeroizing::new(pair.serialize_pem());
        Ok((Self::in_memory(pair)?, text))
    }

    pub(crate) fn from_pem(text: &str) -> Result<Self, KeyStoreError> {
        let pair =
            KeyPair::from_pkcs8_pem_and_sign_algo(text, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyStoreError::Key)?;
        Self::in_memory(pair)
    }

    fn in_memory(pair: KeyPair) -> Result<Self, KeyStoreError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialized_der()));
        let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(KeyStoreError::Signing)?;
        Ok(Self { form: Form::Memory(pair), signing })
    }

    fn in_token(key: TokenKey) -> Self {
        Self { signing: Arc::new(key.clone()), form: Form::Token(key) }
    }

    /// Makes a key for an operational certificate where this one lives; in memory until it is kept, or durably in the token.
    pub(crate) fn make_operational(&self) -> Result<(Self, KeptKey), KeyStoreError> {
        match &self.form {
            Form::Memory(_) => Self::generate_with_pem().map(|(key, pem)| (key, KeptKey::Pem(pem))),
            Form::Token(device) => {
                let (key, id) = device.store.create_operational_key()?;
                Ok((Self::in_token(key), KeptKey::Token(id)))
            }
        }
    }

    /// The key of an operational certificate that was kept.
    pub(crate) fn open_operational(&self, kept: &KeptKey) -> Result<Self, KeyStoreError> {
        match (kept, &self.form) {
            (KeptKey::Pem(pem), _) => Self::from_pem(pem),
            (KeptKey::Token(id), Form::Token(device)) => {
                let found = device.store.key(Which::Operational(*id))?;
                found.map(Self::in_token).ok_or(KeyStoreError::NoOperational)
            }
            (KeptKey::Token(_), Form::Memory(_)) => Err(KeyStoreError::NoOperational),
        }
    }

    /// Removes from the token what no operational certificate is for; how many objects went. What is in memory is gone by itself.
    pub(crate) fn keep_only(&self, used: Option<&KeptKey>) -> Result<usize, KeyStoreError> {
        let used = match used {
            Some(KeptKey::Token(id)) => Some(*id),
            Some(KeptKey::Pem(_)) | None => None,
        };
        match &self.form {
            Form::Memory(_) => Ok(0),
            Form::Token(device) => Ok(device.store.keep_only(used)?),
        }
    }

    /// A PKCS#10 request with the subject `O` = account, `CN` = endpoint.
    pub fn request(
        &self,
        account: &AccountName,
        endpoint: &EndpointName,
    ) -> Result<CertificateSigningRequestDer<'static>, KeyStoreError> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, account.as_str());
        subject.push(DnType::CommonName, endpoint.as_str());
        self.request_for(subject)
    }

    /// A PKCS#10 request with an empty subject, of a device that does not know yet who it will be.
    pub fn unnamed_request(&self) -> Result<CertificateSigningRequestDer<'static>, KeyStoreError> {
        self.request_for(DistinguishedName::new())
    }

    fn request_for(&self, subject: DistinguishedName) -> Result<CertificateSigningRequestDer<'static>, KeyStoreError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        let request = match &self.form {
            Form::Memory(pair) => params.serialize_request(pair),
            Form::Token(key) => params.serialize_request(key),
        };
        Ok(request.map_err(KeyStoreError::Request)?.into())
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        match &self.form {
            Form::Memory(pair) => pair.subject_public_key_info(),
            Form::Token(key) => key.subject_public_key_info(),
        }
    }

    /// The key together with a certificate chain that was issued for it.
    pub fn with_chain(&self, chain: Vec<CertificateDer<'static>>) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(chain, self.signing.clone()))
    }
}

/// Where a board keeps its device key.
#[derive(Clone, Debug)]
pub enum KeyStore {
    /// A folder of files, on the board `host`.
    Files(FileStore),
    /// A PKCS#11 token.
    Token(TokenStore),
}

impl KeyStore {
    /// The key store of the device in `folder`: the token that its board names, or files. Opens nothing yet.
    pub fn of(folder: &DeviceFolder, token: Option<TokenConfig>) -> Self {
        match token {
            Some(config) => Self::Token(TokenStore::new(config, &folder.state())),
            None => Self::Files(FileStore::new(folder.keys())),
        }
    }

    /// Puts back the keys that the agent made in a store that does not last, before the store is opened; whether there are any.
    pub fn restore(&self) -> Result<bool, KeyStoreError> {
        match self {
            Self::Files(_) => Ok(false),
            Self::Token(store) => Ok(store.copy().map_or(Ok(false), |copy| copy.restore())?),
        }
    }

    /// Does without these keys from the next start on.
    pub fn forget_copy(&self) -> Result<(), KeyStoreError> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Token(store) => Ok(store.copy().map_or(Ok(()), |copy| copy.forget())?),
        }
    }

    /// Makes the key store ready to hold a key; one that is ready stays as it is.
    pub fn prepare(&self) -> Result<(), KeyStoreError> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Token(store) => Ok(store.prepare()?),
        }
    }

    /// The device key, or none if none was born yet.
    pub fn device_key(&self) -> Result<Option<DeviceKey>, KeyStoreError> {
        match self {
            Self::Files(store) => store.device_key(),
            Self::Token(store) => Ok(store.key(Which::Device)?.map(DeviceKey::in_token)),
        }
    }

    /// Makes the device key, durably.
    pub fn create_device_key(&self) -> Result<DeviceKey, KeyStoreError> {
        match self {
            Self::Files(store) => store.create_device_key(),
            Self::Token(store) => Ok(DeviceKey::in_token(store.create_key(Which::Device)?)),
        }
    }

    /// The digest of the factory document that was accepted, or none before the factory step ended.
    pub fn accepted_document(&self) -> Result<Option<Digest>, KeyStoreError> {
        match self {
            Self::Files(store) => store.accepted_document(),
            Self::Token(store) => store.accepted_document()?.map(|bytes| recorded_digest(&bytes)).transpose(),
        }
    }

    /// Records the digest of the accepted factory document; this ends the factory step for good.
    pub fn accept_document(&self, digest: Digest) -> Result<(), KeyStoreError> {
        match self {
            Self::Files(store) => store.accept_document(digest),
            Self::Token(store) => Ok(store.accept_document(digest)?),
        }
    }
}

fn recorded_digest(bytes: &[u8]) -> Result<Digest, KeyStoreError> {
    let text = std::str::from_utf8(bytes).map_err(|_| KeyStoreError::Digest)?;
    text.trim_end().parse().map_err(|_| KeyStoreError::Digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_account_and_endpoint_or_nobody_and_carries_the_device_key() {
        use x509_parser::prelude::*;
        let key = DeviceKey::generate().unwrap();
        let named = key.request(&"acme".parse().unwrap(), &"gate-42".parse().unwrap()).unwrap();
        for (request, subject) in [(named, "O=acme, CN=gate-42"), (key.unnamed_request().unwrap(), "")] {
            let (rest, request) = X509CertificationRequest::from_der(&request).unwrap();
            assert!(rest.is_empty());
            request.verify_signature().unwrap();
            let info = &request.certification_request_info;
            assert_eq!(info.subject.to_string(), subject);
            assert_eq!(info.subject_pki.raw, key.public_key());
        }
    }
}
