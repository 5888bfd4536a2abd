//! The device key and the recorded digest of the factory document, as files where a board has a TPM or TEE.
//! The key is born here and never leaves; everything else asks for signatures or requests.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol_types::{AccountName, Digest, EndpointName};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::durable::{self, DurableError};

/// The device's ECDSA P-256 key.
pub struct DeviceKey {
    pair: KeyPair,
    signing: Arc<dyn SigningKey>,
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
    /// A certificate request cannot be made.
    #[error("cannot make a certificate request for {0}")]
    Request(EndpointName, #[source] rcgen::Error),
}

impl DeviceKey {
    /// A new key that exists in memory alone.
    pub fn generate() -> Result<Self, KeyStoreError> {
        Self::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyStoreError::Generate)?)
    }

    fn from_pem(text: &str) -> Result<Self, KeyStoreError> {
        let pair =
            KeyPair::from_pkcs8_pem_and_sign_algo(text, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyStoreError::Key)?;
        Self::new(pair)
    }

    fn new(pair: KeyPair) -> Result<Self, KeyStoreError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialized_der()));
        let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(KeyStoreError::Signing)?;
        Ok(Self { pair, signing })
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
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        let request = params.serialize_request(&self.pair).map_err(|e| KeyStoreError::Request(endpoint.clone(), e))?;
        Ok(request.into())
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// The key together with a certificate chain that was issued for it.
    pub fn with_chain(&self, chain: Vec<CertificateDer<'static>>) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(chain, self.signing.clone()))
    }
}

/// The key store of the board `host`: a folder of files.
#[derive(Clone, Debug)]
pub struct KeyStore {
    folder: PathBuf,
}

impl KeyStore {
    /// The key store in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The device key, or none if none was born yet.
    pub fn device_key(&self) -> Result<Option<DeviceKey>, KeyStoreError> {
        let Some(bytes) = durable::read(&self.key_path(), 4096)?.map(Zeroizing::new) else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        DeviceKey::from_pem(text).map(Some)
    }

    /// Makes the device key, durably and readable by its owner alone.
    pub fn create_device_key(&self) -> Result<DeviceKey, KeyStoreError> {
        durable::make_folder(&self.folder, true)?;
        let key = DeviceKey::generate()?;
        let text = Zeroizing::new(key.pair.serialize_pem());
        durable::replace(&self.key_path(), text.as_bytes(), 0o600)?;
        Ok(key)
    }

    /// The digest of the factory document that was accepted, or none before the factory step ended.
    pub fn accepted_document(&self) -> Result<Option<Digest>, KeyStoreError> {
        let Some(bytes) = durable::read(&self.digest_path(), 256)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).map_err(|_| KeyStoreError::Digest)?;
        text.trim_end().parse().map(Some).map_err(|_| KeyStoreError::Digest)
    }

    /// Records the digest of the accepted factory document; this ends the factory step for good.
    pub fn accept_document(&self, digest: Digest) -> Result<(), KeyStoreError> {
        Ok(durable::replace(&self.digest_path(), format!("{digest}\n").as_bytes(), 0o600)?)
    }

    fn key_path(&self) -> PathBuf {
        self.folder.join("device-key.pem")
    }

    fn digest_path(&self) -> PathBuf {
        self.folder.join("factory.sha256")
    }

    /// The folder of the key store.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_stored_for_its_owner_alone_and_reads_back_as_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::new(folder.path().join("keys"));
        assert!(store.device_key().unwrap().is_none());
        let born = store.create_device_key().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.key_path()), 0o600);
        assert_eq!(mode(store.folder()), 0o700);
        assert_eq!(store.device_key().unwrap().unwrap().public_key(), born.public_key());
    }

    #[test]
    fn a_request_names_account_and_endpoint_and_carries_the_device_key() {
        use x509_parser::prelude::*;
        let key = DeviceKey::generate().unwrap();
        let request = key.request(&"acme".parse().unwrap(), &"gate-42".parse().unwrap()).unwrap();
        let (rest, request) = X509CertificationRequest::from_der(&request).unwrap();
        assert!(rest.is_empty());
        request.verify_signature().unwrap();
        let info = &request.certification_request_info;
        assert_eq!(info.subject.to_string(), "O=acme, CN=gate-42");
        assert_eq!(info.subject_pki.raw, key.public_key());
    }

    #[test]
    fn a_damaged_key_or_digest_is_an_error_and_not_an_absence() {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::new(folder.path());
        std::fs::write(store.key_path(), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        std::fs::write(store.digest_path(), "sha256:00").unwrap();
        assert!(matches!(store.device_key(), Err(KeyStoreError::Key(_))));
        assert!(matches!(store.accepted_document(), Err(KeyStoreError::Digest)));
    }
}
