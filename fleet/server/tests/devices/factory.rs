//! A factory: an authority of its own, device keys, factory certificates and certificate requests.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub(crate) struct Factory {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A key and the certificate that a device shows with it.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

fn named(account: &str, endpoint: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, account);
    params.distinguished_name.push(DnType::CommonName, endpoint);
    params
}

impl Factory {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "factory");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// A device as it leaves the factory.
    pub(crate) fn device(&self, account: &str, endpoint: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = named(account, endpoint).signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.der().clone(), key: key.serialize_der() }
    }
}

impl Identity {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// The same key with another certificate.
    pub(crate) fn with(&self, certificate: &[u8]) -> Self {
        Self { certificate: CertificateDer::from(certificate.to_vec()), key: self.key.clone() }
    }

    /// A request for a certificate of the same key.
    pub(crate) fn request(&self, account: &str, endpoint: &str) -> Vec<u8> {
        let key = KeyPair::try_from(self.key.as_slice()).unwrap();
        named(account, endpoint).serialize_request(&key).unwrap().der().to_vec()
    }
}
