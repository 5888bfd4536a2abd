//! TLS towards the service: the authority of the factory document is the only trust root, and certificates are judged by the
//! verification clock. Never falls back to another root, an unauthenticated connection or the process's default provider.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use protocol_types::UnixSeconds;

use crate::clock::{Present, VerificationClock};

/// ALPN of CoAP over TLS (RFC 8323, section 8.2).
pub const ALPN_COAP: &[u8] = b"coap";
/// ALPN of HTTP/1.1.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// Sessions kept for resumption by one configuration: one server and few tickets.
const SESSIONS: usize = 4;

/// How the validity of a server's certificate is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// By the present; only a clock that is known to be behind gives way to the certificate's own first day.
    Strict,
    /// By the certificate's own first day, but not before the floor. Only for asking the time, since that answer is signed.
    ForTime,
}

/// What a device trusts, from which connections are configured.
#[derive(Clone, Debug)]
pub struct Trust {
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
    clock: Arc<VerificationClock>,
}

/// A trust that cannot be put into effect.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The roots make no verifier.
    #[error("the service authority cannot verify servers")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// The provider offers no usable protocol version.
    #[error("cannot configure TLS")]
    Configure(#[from] Error),
}

/// The one provider of cryptography of this program. Programs with many devices make it once.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Trust {
    /// Trusts `roots` alone, judged by `clock`.
    pub fn new(
        provider: Arc<CryptoProvider>,
        roots: Arc<RootCertStore>,
        clock: Arc<VerificationClock>,
    ) -> Result<Self, TrustError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
        Ok(Self { provider, verifier, clock })
    }

    /// A configuration for connections that present `credential` and speak `alpn`.
    pub fn client(
        &self,
        credential: Arc<CertifiedKey>,
        alpn: &[u8],
        validity: Validity,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let time: Arc<dyn TimeProvider> = self.clock.clone();
        let verifier = JudgedByClock { inner: self.verifier.clone(), clock: self.clock.clone(), validity };
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), time)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credential)));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = match validity {
            Validity::Strict => Resumption::in_memory_sessions(SESSIONS),
            Validity::ForTime => Resumption::disabled(),
        };
        Ok(Arc::new(config))
    }

    /// The clock that certificates are judged by.
    pub const fn clock(&self) -> &Arc<VerificationClock> {
        &self.clock
    }
}

impl TimeProvider for VerificationClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.now()))
    }
}

/// The web PKI's rules for names, usages and signatures, with the time chosen by [`Validity`].
#[derive(Debug)]
struct JudgedByClock {
    inner: Arc<WebPkiServerVerifier>,
    clock: Arc<VerificationClock>,
    validity: Validity,
}

impl JudgedByClock {
    /// A chain that verifies was signed by the authority, so its first day has surely come: that makes it a lower bound of time.
    fn judged_at(&self, chain: impl IntoIterator<Item = UnixSeconds>) -> UnixSeconds {
        let first_day = chain.into_iter().max().unwrap_or_default();
        match (self.validity, self.clock.present()) {
            (Validity::Strict, Present::Known(now)) => now,
            (Validity::Strict, Present::AtLeast(floor)) => floor.max(first_day),
            (Validity::ForTime, _) => self.clock.floor().max(first_day),
        }
    }
}

impl ServerCertVerifier for JudgedByClock {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|der| Validities::of(der).not_before);
        let now = unix_time(self.judged_at(chain));
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// First and last second of a certificate's validity; all of time's beginning for bytes that are no certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validities {
    /// First second.
    pub not_before: UnixSeconds,
    /// Last second.
    pub not_after: UnixSeconds,
}

impl Validities {
    /// Reads them from DER.
    pub fn of(der: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Self::default() };
        let second = |time: x509_parser::time::ASN1Time| UnixSeconds(u64::try_from(time.timestamp()).unwrap_or(0));
        let validity = certificate.validity();
        Self { not_before: second(validity.not_before), not_after: second(validity.not_after) }
    }

    /// The time at which a certificate is renewed: when two thirds of its validity have passed.
    pub fn renewal(self) -> UnixSeconds {
        let validity = self.not_after.since(self.not_before);
        self.not_before.plus(validity / 3 * 2)
    }
}

fn unix_time(time: UnixSeconds) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.0))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::clock::tests::SetClock;

    const FLOOR: u64 = 1_790_000_000;

    fn judge(wall: u64, validity: Validity, first_day: u64) -> u64 {
        let clock = Arc::new(SetClock::default());
        clock.wall.store(wall, Ordering::Relaxed);
        let clock = Arc::new(VerificationClock::new(clock, UnixSeconds(FLOOR)));
        let roots = {
            let mut roots = RootCertStore::empty();
            let key = rcgen::KeyPair::generate().unwrap();
            roots.add(rcgen::CertificateParams::default().self_signed(&key).unwrap().der().clone()).unwrap();
            Arc::new(roots)
        };
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().unwrap();
        JudgedByClock { inner, clock, validity }.judged_at([UnixSeconds(first_day)]).0
    }

    #[test]
    fn a_plausible_clock_decides_alone() {
        assert_eq!(
            judge(FLOOR + 10, Validity::Strict, FLOOR + 100),
            FLOOR + 10,
            "a certificate of tomorrow is refused"
        );
        assert_eq!(judge(FLOOR + 10, Validity::Strict, 0), FLOOR + 10);
    }

    #[test]
    fn a_clock_that_is_behind_gives_way_to_the_first_day_but_not_to_one_before_the_floor() {
        assert_eq!(judge(0, Validity::Strict, FLOOR + 100), FLOOR + 100);
        assert_eq!(judge(0, Validity::Strict, FLOOR - 100), FLOOR, "what expired before the floor stays expired");
    }

    #[test]
    fn only_asking_the_time_overlooks_a_clock_that_is_ahead() {
        assert_eq!(judge(4_070_908_800, Validity::ForTime, FLOOR + 100), FLOOR + 100);
        assert_eq!(judge(4_070_908_800, Validity::ForTime, FLOOR - 100), FLOOR);
        assert_eq!(judge(4_070_908_800, Validity::Strict, FLOOR + 100), 4_070_908_800);
    }

    #[test]
    fn renewal_falls_due_at_two_thirds() {
        let month = Validities { not_before: UnixSeconds(1000), not_after: UnixSeconds(1000 + 30 * 86_400) };
        assert_eq!(month.renewal(), UnixSeconds(1000 + 20 * 86_400));
    }
}
