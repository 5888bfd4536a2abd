//! Reads who a device certificate speaks for. Checks no signature: that is the work of `tls` and `request`.

use protocol_types::{AccountName, Digest, EndpointName, UnixSeconds};
use x509_parser::{
    prelude::{FromDer as _, X509Certificate, X509Name},
    x509::AttributeTypeAndValue,
};

/// A device as its certificates name it: `O` is the account, `CN` the endpoint name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceIdentity {
    /// The account that the device belongs to.
    pub account: AccountName,
    /// The device within the account.
    pub endpoint: EndpointName,
}

/// What the service needs to know of a device certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Who it speaks for.
    pub identity: DeviceIdentity,
    /// Its serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// When it ends.
    pub not_after: UnixSeconds,
    /// SHA-256 of its DER form.
    pub fingerprint: [u8; 32],
}

/// A subject that names no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Longer than any certificate that the service accepts.
    #[error("certificate is longer than {limit} bytes", limit = CertificateFacts::MAX_BYTES)]
    TooLong,
    /// Not a DER certificate, or bytes follow it.
    #[error("not one X.509 certificate in DER")]
    Malformed,
    /// No organization, or several.
    #[error("the subject must have one organization (O), the account name")]
    Account,
    /// No common name, or several.
    #[error("the subject must have one common name (CN), the endpoint name")]
    Endpoint,
}

impl CertificateFacts {
    /// Upper bound for a device certificate in bytes.
    pub const MAX_BYTES: usize = 8 * 1024;
    /// Serial numbers have at most 20 octets (RFC 5280, section 4.1.2.2) and one more for the sign.
    const MAX_SERIAL_BYTES: usize = 21;

    /// Reads a DER certificate.
    pub fn parse(der: &[u8]) -> Result<Self, SubjectError> {
        if der.len() > Self::MAX_BYTES {
            return Err(SubjectError::TooLong);
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| SubjectError::Malformed)?;
        let serial = certificate.raw_serial();
        if !rest.is_empty() || serial.len() > Self::MAX_SERIAL_BYTES {
            return Err(SubjectError::Malformed);
        }
        // A certificate from before 1970 has long expired: zero says so too.
        let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            identity: DeviceIdentity::of(certificate.subject())?,
            serial: hex::encode(serial),
            not_after: UnixSeconds(not_after),
            fingerprint: *Digest::of(der).as_bytes(),
        })
    }
}

impl DeviceIdentity {
    /// Reads a subject; attributes other than `O` and `CN` say nothing about the identity.
    pub(super) fn of(subject: &X509Name<'_>) -> Result<Self, SubjectError> {
        let account = only(subject.iter_organization())
            .and_then(|text| AccountName::new(text).ok())
            .ok_or(SubjectError::Account)?;
        let endpoint = only(subject.iter_common_name())
            .and_then(|text| EndpointName::new(text).ok())
            .ok_or(SubjectError::Endpoint)?;
        Ok(Self { account, endpoint })
    }
}

/// The text of the only attribute; two could be read differently by two programs.
fn only<'a>(mut attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<&'a str> {
    let first = attributes.next()?;
    if attributes.next().is_some() { None } else { first.as_str().ok() }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::authority::tests::changed_or_garbage;

    static GOOD: LazyLock<Vec<u8>> =
        LazyLock::new(|| certificate(&[(DnType::OrganizationName, "default"), (DnType::CommonName, "gate-42")]));

    fn certificate(subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn organization_and_common_name_are_account_and_endpoint() {
        let der = certificate(&[
            (DnType::CountryName, "FI"),
            (DnType::OrganizationName, "default"),
            (DnType::CommonName, "gate-42"),
        ]);
        let facts = CertificateFacts::parse(&der).unwrap();
        assert_eq!(facts.identity.account.as_str(), "default");
        assert_eq!(facts.identity.endpoint.as_str(), "gate-42");
    }

    #[test]
    fn a_subject_that_is_no_account_or_no_endpoint_is_refused() {
        let no_account = certificate(&[(DnType::CommonName, "gate-42")]);
        assert_eq!(CertificateFacts::parse(&no_account), Err(SubjectError::Account));
        let path = certificate(&[(DnType::OrganizationName, "../other"), (DnType::CommonName, "gate-42")]);
        assert_eq!(CertificateFacts::parse(&path), Err(SubjectError::Account));
        let no_endpoint = certificate(&[(DnType::OrganizationName, "default")]);
        assert_eq!(CertificateFacts::parse(&no_endpoint), Err(SubjectError::Endpoint));
        let space = certificate(&[(DnType::OrganizationName, "default"), (DnType::CommonName, "gate 42")]);
        assert_eq!(CertificateFacts::parse(&space), Err(SubjectError::Endpoint));
    }

    #[test]
    fn bytes_that_follow_a_certificate_or_cut_it_short_are_refused() {
        let mut der = certificate(&[(DnType::OrganizationName, "default"), (DnType::CommonName, "gate-42")]);
        for end in 0..der.len() {
            assert_eq!(CertificateFacts::parse(&der[..end]), Err(SubjectError::Malformed), "cut at {end}");
        }
        der.push(0);
        assert_eq!(CertificateFacts::parse(&der), Err(SubjectError::Malformed));
        assert_eq!(CertificateFacts::parse(&[0x30; CertificateFacts::MAX_BYTES + 1]), Err(SubjectError::TooLong));
    }

    proptest! {
        #[test]
        fn a_certificate_with_anything_changed_is_read_or_refused(said in changed_or_garbage(GOOD.clone())) {
            for bytes in said {
                if let Ok(facts) = CertificateFacts::parse(&bytes) {
                    prop_assert!(facts.serial.len() <= 2 * CertificateFacts::MAX_SERIAL_BYTES);
                }
            }
        }
    }
}
