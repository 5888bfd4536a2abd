//! Who this device is and whom it trusts: the factory document, the factory certificate and the device key, checked against
//! each other. Never talks to anyone.

use std::sync::Arc;

use protocol_time::{TimeKey, TimeKeyError};
use protocol_types::{AccountName, Digest, EndpointName, FactoryDocument, factory::FactoryError};
use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::{
    address::{AddressError, Scheme, ServerAddress},
    durable::{self, DurableError},
    key_store::{DeviceKey, KeyStore, KeyStoreError},
    layout::DeviceFolder,
};

/// The longest certificate chain in bytes of PEM.
pub(crate) const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// The most certificates of one chain.
const MAX_CHAIN: usize = 5;

/// A device that is sound: document, certificate and key belong together.
#[derive(Debug)]
pub struct Identity {
    document: FactoryDocument,
    bootstrap: ServerAddress,
    key: DeviceKey,
    factory: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    time_key: TimeKey,
}

/// Why document, certificate and key do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot load the identity")]
    File(#[from] DurableError),
    /// The key store does not answer.
    #[error("cannot load the device key")]
    KeyStore(#[from] KeyStoreError),
    /// There is no such part; the factory step was not done or did not end.
    #[error("{0} is missing: run the factory step")]
    Missing(&'static str),
    /// The document is not the one that was accepted at the factory.
    #[error("the factory document has digest {found}, the key store recorded {recorded}")]
    Altered {
        /// Digest of the file as it is.
        found: Digest,
        /// Digest as it was accepted.
        recorded: Digest,
    },
    /// The document cannot be used.
    #[error("the factory document cannot be read")]
    Document(#[from] FactoryError),
    /// The bootstrap address cannot be used.
    #[error("the factory document has no usable bootstrap address")]
    Bootstrap(#[source] AddressError),
    /// The bootstrap address is not one of CoAP over TLS.
    #[error("the factory document must name its bootstrap server as coaps+tcp://HOST:PORT")]
    BootstrapScheme,
    /// The service authority cannot be used.
    #[error("the factory document has no usable service authority")]
    Authority(#[source] ChainError),
    /// An authority that TLS does not accept as a trust anchor.
    #[error("a certificate of the service authority is no trust anchor")]
    Anchor(#[source] rustls::Error),
    /// The time key cannot be used.
    #[error("the factory document has no usable time key")]
    TimeKey(#[from] TimeKeyError),
    /// The first TUF root is no JSON object.
    #[error("the factory document has no TUF root in JSON")]
    TufRoot,
    /// The factory certificate cannot be used.
    #[error("the factory certificate cannot be used")]
    Certificate(#[from] ChainError),
}

impl IdentityError {
    /// Whether it says nothing of the identity itself, only that it cannot be had now.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(self, Self::File(_) | Self::KeyStore(KeyStoreError::File(_) | KeyStoreError::Token(_)))
    }
}

/// Why a certificate chain cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// No certificate, or more than a chain has.
    #[error("a chain must have 1 to {MAX_CHAIN} certificates, this one has {0}")]
    Length(usize),
    /// Not PEM.
    #[error("not a PEM text with certificates")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Not X.509.
    #[error("not an X.509 certificate")]
    X509,
    /// Issued for another key.
    #[error("the certificate was issued for another key than the one of this device")]
    Key,
    /// Issued to another subject.
    #[error("the certificate was issued to `{found}`, expected O={account}, CN={endpoint}")]
    Subject {
        /// The subject it names.
        found: String,
        /// The account it must name.
        account: AccountName,
        /// The endpoint it must name.
        endpoint: EndpointName,
    },
}

impl Identity {
    /// Checks that `document`, the PEM chain of the factory certificate and `key` belong together.
    pub fn check(document: FactoryDocument, chain: &str, key: DeviceKey) -> Result<Self, IdentityError> {
        let bootstrap: ServerAddress = document.bootstrap_uri.parse().map_err(IdentityError::Bootstrap)?;
        if bootstrap.scheme() != Scheme::CoapsTcp {
            return Err(IdentityError::BootstrapScheme);
        }
        let mut roots = RootCertStore::empty();
        for authority in read_chain(&document.service_authority).map_err(IdentityError::Authority)? {
            roots.add(authority).map_err(IdentityError::Anchor)?;
        }
        let time_key = TimeKey::from_pem(&document.time_key)?;
        // The agent never interprets TUF; it only refuses what cannot be the JSON text that the updater will want.
        if !serde_json::from_str::<serde_json::Value>(&document.tuf_root).is_ok_and(|root| root.is_object()) {
            return Err(IdentityError::TufRoot);
        }
        let chain = read_chain(chain)?;
        check_leaf(&chain, &key, &document.account, &document.endpoint)?;
        let factory = key.with_chain(chain);
        Ok(Self { document, bootstrap, key, factory, roots: Arc::new(roots), time_key })
    }

    /// Loads the identity of a provisioned device and checks it against what the key store recorded.
    pub fn load(folder: &DeviceFolder, store: &KeyStore) -> Result<Self, IdentityError> {
        let recorded = store.accepted_document()?.ok_or(IdentityError::Missing("the recorded digest"))?;
        let bytes = durable::read(&folder.factory_document(), FactoryDocument::MAX_BYTES)?
            .ok_or(IdentityError::Missing("the factory document"))?;
        let found = Digest::of(&bytes);
        if found != recorded {
            return Err(IdentityError::Altered { found, recorded });
        }
        let document = FactoryDocument::parse(&bytes)?;
        let chain = durable::read(&folder.factory_certificate(), MAX_CHAIN_BYTES)?
            .ok_or(IdentityError::Missing("the factory certificate"))?;
        let key = store.device_key()?.ok_or(IdentityError::Missing("the device key"))?;
        Self::check(document, &String::from_utf8_lossy(&chain), key)
    }

    /// What the factory decided.
    pub const fn document(&self) -> &FactoryDocument {
        &self.document
    }

    /// Where the device bootstraps.
    pub const fn bootstrap(&self) -> &ServerAddress {
        &self.bootstrap
    }

    /// The device key.
    pub const fn key(&self) -> &DeviceKey {
        &self.key
    }

    /// Device key and factory certificate, for TLS.
    pub const fn factory(&self) -> &Arc<CertifiedKey> {
        &self.factory
    }

    /// The only trust anchors for the service's certificates.
    pub const fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// The key that signs time.
    pub const fn time_key(&self) -> &TimeKey {
        &self.time_key
    }
}

/// The certificates of a PEM text, the leaf first.
pub(crate) fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_CHAIN + 1)
        .collect::<Result<_, _>>()
        .map_err(ChainError::Pem)?;
    if (1..=MAX_CHAIN).contains(&chain.len()) { Ok(chain) } else { Err(ChainError::Length(chain.len())) }
}

/// Checks that the first certificate is for this key, account and endpoint.
pub(crate) fn check_leaf(
    chain: &[CertificateDer<'_>],
    key: &DeviceKey,
    account: &AccountName,
    endpoint: &EndpointName,
) -> Result<(), ChainError> {
    let leaf = chain.first().ok_or(ChainError::Length(0))?;
    let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|_| ChainError::X509)?;
    if !rest.is_empty() {
        return Err(ChainError::X509);
    }
    if leaf.public_key().raw != key.public_key() {
        return Err(ChainError::Key);
    }
    if !names(leaf.subject(), account, endpoint) {
        let found = leaf.subject().to_string().chars().take(120).flat_map(char::escape_default).collect();
        return Err(ChainError::Subject { found, account: account.clone(), endpoint: endpoint.clone() });
    }
    Ok(())
}

/// Whether a subject has exactly one organization and one common name, and they are these.
fn names(subject: &X509Name<'_>, account: &AccountName, endpoint: &EndpointName) -> bool {
    fn only<'a>(mut texts: impl Iterator<Item = Option<&'a str>>) -> Option<&'a str> {
        match (texts.next(), texts.next()) {
            (Some(text), None) => text,
            _ => None,
        }
    }
    only(subject.iter_organization().map(|part| part.as_str().ok())) == Some(account.as_str())
        && only(subject.iter_common_name().map(|part| part.as_str().ok())) == Some(endpoint.as_str())
}
