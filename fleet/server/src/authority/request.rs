//! Reads and verifies a certificate request (PKCS#10, RFC 2986). Signs nothing.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::{
    asn1_rs::{Oid, oid},
    certification_request::X509CertificationRequest,
    prelude::FromDer as _,
};

use super::{DeviceIdentity, SubjectError};

const EC_PUBLIC_KEY: Oid<'_> = oid!(1.2.840.10045.2.1);
const PRIME256V1: Oid<'_> = oid!(1.2.840.10045.3.1.7);
const ECDSA_WITH_SHA256: Oid<'_> = oid!(1.2.840.10045.4.3.2);
/// One byte that says uncompressed, then two coordinates of 32 bytes.
const POINT_BYTES: usize = 65;

/// A request whose sender has proved to hold the private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The subject that it asks for.
    pub identity: DeviceIdentity,
    /// The public key as a DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

/// A request that is refused whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any request that the service accepts.
    #[error("certificate request is longer than {limit} bytes", limit = CertificateRequest::MAX_BYTES)]
    TooLong,
    /// Not a DER request, or bytes follow it.
    #[error("not one PKCS#10 request in DER")]
    Malformed,
    /// The subject names no device.
    #[error("the request names no device")]
    Subject(#[from] SubjectError),
    /// Not an ECDSA key on P-256, or not signed with SHA-256.
    #[error("the key must be ECDSA on P-256, the signature ECDSA with SHA-256")]
    Algorithm,
    /// Not signed by the key that it carries.
    #[error("the request is not signed by the key that it carries")]
    Signature,
}

impl CertificateRequest {
    /// Upper bound for a request in bytes: one with a P-256 key has about 300.
    pub const MAX_BYTES: usize = 4 * 1024;

    /// Reads a DER request and verifies that the key that it carries has signed it. Attributes are ignored: the service decides
    /// what an operational certificate may be used for.
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > Self::MAX_BYTES {
            return Err(RequestError::TooLong);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let info = &request.certification_request_info;
        let key = &info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let point: &[u8] = key.subject_public_key.as_ref();
        if key.algorithm.algorithm != EC_PUBLIC_KEY
            || curve != Some(PRIME256V1)
            || point.len() != POINT_BYTES
            || request.signature_algorithm.algorithm != ECDSA_WITH_SHA256
        {
            return Err(RequestError::Algorithm);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(info.raw, request.signature_value.as_ref())
            .map_err(|_| RequestError::Signature)?;
        Ok(Self { identity: DeviceIdentity::of(&info.subject)?, public_key: key.raw.to_vec() })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;
    use crate::authority::tests::changed_or_garbage;

    static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| request("default", "gate-42", &KeyPair::generate().unwrap()));

    /// A request of `endpoint` in `account`, signed by `key`.
    pub(in crate::authority) fn request(account: &str, endpoint: &str, key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, account);
        params.distinguished_name.push(DnType::CommonName, endpoint);
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_signed_by_its_own_key_is_read() {
        let key = KeyPair::generate().unwrap();
        let parsed = CertificateRequest::parse(&request("default", "gate-42", &key)).unwrap();
        assert_eq!(parsed.identity.endpoint.as_str(), "gate-42");
        assert!(parsed.public_key.ends_with(key.public_key_raw()));
    }

    #[test]
    fn a_request_with_any_signed_byte_changed_is_refused() {
        let der = request("default", "gate-42", &KeyPair::generate().unwrap());
        let signed = X509CertificationRequest::from_der(&der).unwrap().1.certification_request_info.raw;
        let start = der.windows(signed.len()).position(|window| window == signed).unwrap();
        for at in start..start + signed.len() {
            for bit in 0..8 {
                let mut changed = der.clone();
                changed[at] ^= 1 << bit;
                assert!(CertificateRequest::parse(&changed).is_err(), "bit {bit} of byte {at} does not matter");
            }
        }
    }

    #[test]
    fn a_request_that_carries_another_key_than_the_one_that_signed_it_is_refused() {
        let (mine, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut der = request("default", "gate-42", &mine);
        let point = mine.public_key_raw();
        let at = der.windows(point.len()).position(|window| window == point).unwrap();
        der[at..at + point.len()].copy_from_slice(other.public_key_raw());
        assert_eq!(CertificateRequest::parse(&der), Err(RequestError::Signature));
    }

    #[test]
    fn keys_on_other_curves_and_broken_requests_are_refused() {
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(CertificateRequest::parse(&request("default", "gate-42", &p384)), Err(RequestError::Algorithm));
        let der = request("default", "gate-42", &KeyPair::generate().unwrap());
        for end in 0..der.len() {
            assert_eq!(CertificateRequest::parse(&der[..end]), Err(RequestError::Malformed), "cut at {end}");
        }
        assert_eq!(CertificateRequest::parse(&[0; CertificateRequest::MAX_BYTES + 1]), Err(RequestError::TooLong));
    }

    proptest! {
        #[test]
        fn a_request_with_anything_changed_names_its_device_or_is_refused(said in changed_or_garbage(GOOD.clone())) {
            for bytes in said {
                if let Ok(read) = CertificateRequest::parse(&bytes) {
                    prop_assert_eq!(read.identity.endpoint.as_str(), "gate-42");
                }
            }
        }
    }
}
