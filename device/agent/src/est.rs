//! Enrolment over Secure Transport (RFC 9148) on a connection that LwM2M keeps: which requests are made and which certificate is
//! taken. Never sends or stores anything.

use protocol_lwm2m::coap::{Code, ContentFormat, ExchangeError, Message};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    clock::Present,
    durable::DurableError,
    identity::{ChainError, Identity, check_leaf},
    key_store::{DeviceKey, KeyStoreError},
    tls::Validities,
};

/// The longest certificate in bytes of DER.
const MAX_CERTIFICATE: usize = 16 * 1024;
/// How far a certificate's first second may lie ahead of this device's clock, in seconds: two clocks are never the same.
const SKEW: u64 = 300;

/// Why no certificate was taken.
#[derive(Debug, thiserror::Error)]
pub enum EstError {
    /// The key store made no request.
    #[error("cannot ask for a certificate")]
    Request(#[from] KeyStoreError),
    /// No answer.
    #[error("the enrolment server did not answer")]
    Exchange(#[from] ExchangeError),
    /// The server refused.
    #[error("the enrolment server refused with {code}: {diagnostic}")]
    Refused {
        /// Its code.
        code: Code,
        /// What it said.
        diagnostic: String,
    },
    /// The answer is no certificate in DER.
    #[error("the enrolment server answered with something else than a certificate")]
    Form,
    /// The certificate is not for this device.
    #[error("the issued certificate is not for this device")]
    Leaf(#[from] ChainError),
    /// The certificate is not signed by the authority that the server named.
    #[error("the issued certificate is not signed by the issuing authority")]
    Issuer,
    /// The certificate is of another time.
    #[error("the issued certificate is not valid now")]
    Validity,
    /// It cannot be kept. If it were used, the service would take the one that a restart finds for a copy.
    #[error("the issued certificate cannot be kept")]
    Kept(#[from] DurableError),
    /// It is for a new key that was asked for and given up meanwhile.
    #[error("nobody wants the new key any more")]
    GivenUp,
}

/// The question for the issuing authority.
pub(crate) fn ask_authority() -> Message {
    Message::new(Code::GET).path("/.well-known/est/crts").accept(ContentFormat::PKIX_CERT)
}

/// The question for the first operational certificate of this enrolment.
pub(crate) fn ask_certificate(identity: &Identity) -> Result<Message, EstError> {
    ask((identity, identity.key()), "/.well-known/est/sen")
}

/// The question for the next operational certificate, for this key.
pub(crate) fn ask_renewal(identity: &Identity, key: &DeviceKey) -> Result<Message, EstError> {
    ask((identity, key), "/.well-known/est/sren")
}

fn ask((identity, key): (&Identity, &DeviceKey), path: &str) -> Result<Message, EstError> {
    let document = identity.document();
    let request = key.request(&document.account, &document.endpoint)?;
    Ok(Message::new(Code::POST)
        .path(path)
        .content(ContentFormat::PKCS10, request.as_ref())
        .accept(ContentFormat::PKIX_CERT))
}

/// The certificate of an answer.
pub(crate) fn certificate(answer: Result<Message, ExchangeError>) -> Result<CertificateDer<'static>, EstError> {
    let answer = answer?;
    if !answer.code.is_success() {
        return Err(EstError::Refused { code: answer.code, diagnostic: answer.diagnostic() });
    }
    if answer.content_format() != Some(ContentFormat::PKIX_CERT) || answer.payload.len() > MAX_CERTIFICATE {
        return Err(EstError::Form);
    }
    match X509Certificate::from_der(&answer.payload) {
        Ok(([], _)) => Ok(CertificateDer::from(answer.payload)),
        _ => Err(EstError::Form),
    }
}

/// Checks that an issued certificate is for this device and its key, for now, and by `authority` where that is known.
pub(crate) fn accept(
    issued: CertificateDer<'static>,
    authority: Option<&CertificateDer<'_>>,
    (identity, key): (&Identity, &DeviceKey),
    present: Present,
) -> Result<Vec<CertificateDer<'static>>, EstError> {
    let chain = vec![issued];
    let document = identity.document();
    check_leaf(&chain, key, &document.account, &document.endpoint)?;
    let issued = chain.first().ok_or(EstError::Form)?;
    if let Some(authority) = authority {
        let (_, authority) = X509Certificate::from_der(authority).map_err(|_| EstError::Form)?;
        let (_, issued) = X509Certificate::from_der(issued).map_err(|_| EstError::Form)?;
        issued.verify_signature(Some(authority.public_key())).map_err(|_| EstError::Issuer)?;
    }
    let Validities { not_before, not_after } = Validities::of(issued);
    let timely = match present {
        Present::Known(now) => not_before.0 <= now.0.saturating_add(SKEW) && now < not_after,
        Present::AtLeast(floor) => floor < not_after,
    };
    if timely { Ok(chain) } else { Err(EstError::Validity) }
}

#[cfg(test)]
mod tests {
    use protocol_types::{FactoryDocument, UnixSeconds};
    use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};

    use super::*;

    /// 2026-07-01.
    const NOW: Present = Present::Known(UnixSeconds(1_782_864_000));

    struct Authority {
        der: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn sign(authority: &Authority, request: &[u8], (from, to): (i32, i32)) -> CertificateDer<'static> {
        let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        request.params.not_before = rcgen::date_time_ymd(from, 1, 1);
        request.params.not_after = rcgen::date_time_ymd(to, 1, 1);
        request.signed_by(&authority.issuer).unwrap().der().clone()
    }

    fn identity(authority: &Authority) -> Identity {
        let key = DeviceKey::generate().unwrap();
        let document = FactoryDocument {
            format: 1,
            endpoint: "gate-42".parse().unwrap(),
            account: "acme".parse().unwrap(),
            board: "host".parse().unwrap(),
            architecture: "x86_64".parse().unwrap(),
            bootstrap_uri: "coaps+tcp://127.0.0.1:5684".to_owned(),
            service_authority: authority.pem.clone(),
            tuf_root: "{}".to_owned(),
            time_key: KeyPair::generate().unwrap().public_key_pem(),
            provisioned: UnixSeconds(1_767_225_600),
            recovery_key: None,
        };
        let request = key.request(&document.account, &document.endpoint).unwrap();
        let certificate = sign(authority, &request, (2026, 2126));
        let chain = pem::encode(&pem::Pem::new("CERTIFICATE", certificate.as_ref()));
        Identity::check(document, &chain, key).unwrap()
    }

    #[test]
    fn requests_have_the_paths_and_formats_of_the_standard() {
        let identity = identity(&authority());
        assert_eq!(ask_authority().uri_path(), "/.well-known/est/crts");
        for (request, path) in [
            (ask_certificate(&identity).unwrap(), "/.well-known/est/sen"),
            (ask_renewal(&identity, identity.key()).unwrap(), "/.well-known/est/sren"),
        ] {
            assert_eq!(request.uri_path(), path);
            assert_eq!(
                (request.code, request.content_format(), request.accepted()),
                (Code::POST, Some(ContentFormat::PKCS10), Some(ContentFormat::PKIX_CERT))
            );
        }
    }

    #[test]
    fn only_a_certificate_for_this_device_by_the_named_authority_and_for_now_is_taken() {
        let (right, wrong) = (authority(), authority());
        let identity = identity(&right);
        let request = ask_certificate(&identity).unwrap().payload;
        let take = |der, by: &Authority, present| accept(der, Some(&by.der), (&identity, identity.key()), present);

        assert!(take(sign(&right, &request, (2026, 2027)), &right, NOW).is_ok());
        assert!(matches!(take(sign(&wrong, &request, (2026, 2027)), &right, NOW), Err(EstError::Issuer)));
        assert!(matches!(take(sign(&right, &request, (2024, 2025)), &right, NOW), Err(EstError::Validity)));
        assert!(matches!(take(sign(&right, &request, (2027, 2028)), &right, NOW), Err(EstError::Validity)));
        let lost = Present::AtLeast(UnixSeconds(1_767_225_600));
        assert!(take(sign(&right, &request, (2036, 2037)), &right, lost).is_ok(), "a device without a clock");
        assert!(matches!(take(sign(&right, &request, (2024, 2025)), &right, lost), Err(EstError::Validity)));

        let stranger = DeviceKey::generate().unwrap().request(&"acme".parse().unwrap(), &"gate-42".parse().unwrap());
        let other_key = sign(&right, &stranger.unwrap(), (2026, 2027));
        assert!(matches!(take(other_key, &right, NOW), Err(EstError::Leaf(ChainError::Key))));
        let renamed = identity.key().request(&"evil".parse().unwrap(), &"gate-42".parse().unwrap()).unwrap();
        let other_account = sign(&right, &renamed, (2026, 2027));
        assert!(matches!(take(other_account, &right, NOW), Err(EstError::Leaf(ChainError::Subject { .. }))));
    }

    #[test]
    fn an_answer_that_is_no_certificate_is_refused() {
        let good = authority().der;
        let answer = |payload: &[u8]| Ok(Message::new(Code::CHANGED).content(ContentFormat::PKIX_CERT, payload));
        assert_eq!(certificate(answer(&good)).unwrap(), good);
        assert!(matches!(certificate(answer(b"")), Err(EstError::Form)));
        assert!(matches!(certificate(answer(&[&good, &b"x"[..]].concat())), Err(EstError::Form)));
        assert!(matches!(certificate(answer(&[0x30; MAX_CERTIFICATE + 1])), Err(EstError::Form)));
        let text = Ok(Message::new(Code::CHANGED).content(ContentFormat::TEXT, good.as_ref()));
        assert!(matches!(certificate(text), Err(EstError::Form)));
        let refusal = Ok(Message::refusal(Code::FORBIDDEN, "suspended"));
        assert!(matches!(certificate(refusal), Err(EstError::Refused { code: Code::FORBIDDEN, .. })));
        assert!(matches!(certificate(Err(ExchangeError::TimedOut)), Err(EstError::Exchange(_))));
    }
}
