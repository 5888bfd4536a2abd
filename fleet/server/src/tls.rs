//! Who may speak on which port: TLS settings with a named crypto provider and the authorities that device certificates must
//! chain to. Never reads a request.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use protocol_types::{AccountName, UnixSeconds};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConnection, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::authority::{AuthorityError, CertificateFacts, ServiceAuthority, SubjectError};

/// Protocol of the ports that speak CoAP (RFC 8323, section 8.2).
pub const ALPN_COAP: &[u8] = b"coap";
/// Protocol of the ports that speak HTTP.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// TLS that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate for the ports.
    #[error("cannot make a server certificate")]
    Certificate(#[from] AuthorityError),
    /// The TLS library refuses the settings or the key.
    #[error("cannot set up TLS")]
    Settings(#[from] rustls::Error),
}

/// The one crypto provider of the service.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificate that all ports show; replaced before it ends while connections go on.
#[derive(Debug)]
pub struct PortCertificate {
    current: RwLock<(Arc<CertifiedKey>, UnixSeconds)>,
    hosts: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl PortCertificate {
    /// A first certificate for `hosts`, which are names or addresses.
    pub fn new(authority: &ServiceAuthority, hosts: Vec<String>, now: UnixSeconds) -> Result<Self, TlsError> {
        let provider = provider();
        let current = RwLock::new(Self::make(authority, &hosts, &provider, now)?);
        Ok(Self { current, hosts, provider })
    }

    /// Replaces the certificate if its time has come; answers when to ask again.
    pub fn renew(&self, authority: &ServiceAuthority, now: UnixSeconds) -> Result<UnixSeconds, TlsError> {
        let due = self.current.read().unwrap_or_else(PoisonError::into_inner).1;
        if now < due {
            return Ok(due);
        }
        let next = Self::make(authority, &self.hosts, &self.provider, now)?;
        let due = next.1;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(due)
    }

    fn make(
        authority: &ServiceAuthority,
        hosts: &[String],
        provider: &CryptoProvider,
        now: UnixSeconds,
    ) -> Result<(Arc<CertifiedKey>, UnixSeconds), TlsError> {
        let made = authority.server_certificate(hosts, now)?;
        let key = CertifiedKey::from_der(vec![made.certificate], PrivateKeyDer::from(made.key), provider)?;
        Ok((Arc::new(key), made.renew_at))
    }
}

impl ResolvesServerCert for PortCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

/// The authorities that may name devices of each account. A certificate is tried against those of the account in its `O` alone,
/// so nobody can name a device of an account whose authority did not sign it.
#[derive(Debug)]
pub struct TrustedAuthorities {
    accounts: RwLock<HashMap<AccountName, Vec<Trusted>>>,
    provider: Arc<CryptoProvider>,
}

#[derive(Clone, Debug)]
struct Trusted {
    id: Arc<str>,
    certificate: CertificateDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// A device whose certificate chain was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What its certificate says.
    pub facts: CertificateFacts,
    /// The authority that the chain ends at.
    pub authority: Arc<str>,
}

impl Default for TrustedAuthorities {
    fn default() -> Self {
        Self { accounts: RwLock::default(), provider: provider() }
    }
}

impl TrustedAuthorities {
    /// Trusts exactly these certificates, each with its id, for `account` from now on. A certificate that cannot be an authority is refused
    /// and changes nothing.
    pub fn replace(
        &self,
        account: &AccountName,
        authorities: impl IntoIterator<Item = (String, CertificateDer<'static>)>,
    ) -> Result<(), TlsError> {
        let trusted = authorities
            .into_iter()
            .map(|(id, certificate)| {
                let verifier = single_verifier(certificate.clone(), &self.provider)?;
                Ok(Trusted { id: id.into(), certificate, verifier })
            })
            .collect::<Result<Vec<_>, TlsError>>()?;
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if trusted.is_empty() {
            accounts.remove(account);
        } else {
            accounts.insert(account.clone(), trusted);
        }
        Ok(())
    }

    /// Trusts nothing for `account` any more.
    pub fn forget(&self, account: &AccountName) {
        self.accounts.write().unwrap_or_else(PoisonError::into_inner).remove(account);
    }

    /// The accounts for which something is trusted.
    pub fn accounts(&self) -> Vec<AccountName> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Whether `certificates` are what is trusted for `account`.
    pub fn are(&self, account: &AccountName, certificates: &[CertificateDer<'static>]) -> bool {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.get(account).map_or(0, Vec::len) == certificates.len()
            && accounts
                .get(account)
                .into_iter()
                .flatten()
                .zip(certificates)
                .all(|(have, want)| have.certificate == *want)
    }

    /// Verifies a chain against the authorities of the account that its subject names.
    pub fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, rustls::Error> {
        let facts = CertificateFacts::parse(certificate).map_err(|error| {
            rustls::Error::InvalidCertificate(match error {
                SubjectError::TooLong | SubjectError::Malformed => CertificateError::BadEncoding,
                SubjectError::Account | SubjectError::Endpoint => CertificateError::ApplicationVerificationFailure,
            })
        })?;
        let candidates = {
            let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
            accounts.get(&facts.identity.account).cloned().unwrap_or_default()
        };
        let mut refusal = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for trusted in candidates {
            match trusted.verifier.verify_client_cert(certificate, intermediates, now) {
                Ok(_) => return Ok(Peer { facts, authority: trusted.id }),
                Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                // A chain that reaches an authority but fails says more than one that reaches none.
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Who is at the other end of a finished handshake. The chain is verified again: a resumed session has skipped it, and an authority
    /// may have been revoked since.
    pub fn peer(&self, connection: &ServerConnection, now: UnixSeconds) -> Result<Peer, rustls::Error> {
        self.verify_chain(connection.peer_certificates().unwrap_or_default(), now)
    }

    /// Verifies a chain, the leaf first, at `now`.
    pub fn verify_chain(&self, chain: &[CertificateDer<'_>], now: UnixSeconds) -> Result<Peer, rustls::Error> {
        let Some((certificate, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.verify(certificate, intermediates, UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.0)))
    }
}

/// Whether `certificate` could sign device certificates at all.
pub fn check_authority(certificate: CertificateDer<'static>) -> Result<(), TlsError> {
    single_verifier(certificate, &provider()).map(drop)
}

fn single_verifier(
    certificate: CertificateDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(verifier)
}

/// Asks every client for a certificate and verifies it during the handshake.
#[derive(Debug)]
struct DeviceVerifier {
    trusted: Arc<TrustedAuthorities>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for DeviceVerifier {
    /// Nothing: a hint would tell strangers which accounts there are.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trusted.verify(certificate, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Settings of a port whose clients are devices.
pub fn device_port(
    certificate: Arc<PortCertificate>,
    trusted: Arc<TrustedAuthorities>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(DeviceVerifier { trusted, provider: provider.clone() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![protocol.to_vec()];
    // Tickets keep sessions at the clients, so tens of thousands of them cost the service nothing.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Settings of the port that people and programs use; they identify themselves with tokens.
pub fn public_port(certificate: Arc<PortCertificate>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW))
    }

    struct Factory {
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn factory(name: &str) -> Factory {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Factory { issuer: Issuer::from_ca_cert_der(&certificate, key).unwrap(), certificate }
    }

    fn device(factory: &Factory, account: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, account);
        params.distinguished_name.push(DnType::CommonName, "gate-42");
        params.signed_by(&KeyPair::generate().unwrap(), &factory.issuer).unwrap().der().clone()
    }

    fn account(name: &str) -> AccountName {
        AccountName::new(name).unwrap()
    }

    #[test]
    fn the_authority_that_signed_decides_which_account_a_certificate_may_name() {
        let (one, two) = (factory("one"), factory("two"));
        let trusted = TrustedAuthorities::default();
        trusted.replace(&account("one"), [("a1".into(), one.certificate.clone())]).unwrap();
        trusted.replace(&account("two"), [("a2".into(), two.certificate.clone())]).unwrap();
        let peer = trusted.verify(&device(&one, "one"), &[], now()).unwrap();
        assert_eq!((&*peer.authority, peer.facts.identity.account.as_str()), ("a1", "one"));
        for (factory, named) in [(&one, "two"), (&two, "one"), (&one, "three")] {
            let refused = trusted.verify(&device(factory, named), &[], now()).unwrap_err();
            assert_eq!(refused, rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), "{named}");
        }
    }

    #[test]
    fn an_authority_that_is_no_longer_trusted_names_nobody() {
        let one = factory("one");
        let trusted = TrustedAuthorities::default();
        trusted.replace(&account("one"), [("a1".into(), one.certificate.clone())]).unwrap();
        let certificate = device(&one, "one");
        assert!(trusted.verify(&certificate, &[], now()).is_ok());
        trusted.replace(&account("one"), []).unwrap();
        assert!(trusted.verify(&certificate, &[], now()).is_err());
    }

    #[test]
    fn a_certificate_of_another_authority_with_the_same_name_is_refused() {
        let (real, forged) = (factory("one"), factory("one"));
        let trusted = TrustedAuthorities::default();
        trusted.replace(&account("one"), [("a1".into(), real.certificate)]).unwrap();
        assert!(trusted.verify(&device(&forged, "one"), &[], now()).is_err());
    }

    #[test]
    fn ports_show_a_new_certificate_once_the_old_one_is_two_thirds_through() {
        let folder = tempfile::tempdir().unwrap();
        let authority = crate::authority::Authority::open(folder.path(), UnixSeconds(NOW)).unwrap();
        let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let port = PortCertificate::new(&authority.service, hosts, UnixSeconds(NOW)).unwrap();
        let shown = || port.current.read().unwrap().0.cert[0].clone();
        let first = shown();
        let due = port.renew(&authority.service, UnixSeconds(NOW + 59 * 86_400)).unwrap();
        assert_eq!((shown(), due), (first.clone(), UnixSeconds(NOW + 60 * 86_400)));
        port.renew(&authority.service, due).unwrap();
        assert_ne!(shown(), first);
    }
}
