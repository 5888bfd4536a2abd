//! Whether the service told a time: the key that signs it, and what it has signed. Never reads a clock, and does not say how old a time is.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use data_encoding::BASE64;
use protocol_types::SignedTime;
use rustls_pki_types::{
    SubjectPublicKeyInfoDer,
    pem::{self, PemObject as _},
};

/// What stands before the point in the SubjectPublicKeyInfo of a key on P-256 (RFC 5480). DER has no other form for it.
const BEFORE_POINT: [u8; 26] =
    *b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
/// The length of an uncompressed point on P-256, and its first byte.
const POINT: (usize, u8) = (65, 4);

/// The public key that signs time.
#[derive(Clone, Debug)]
pub struct TimeKey {
    point: Vec<u8>,
}

/// A time key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TimeKeyError {
    /// Not PEM with a public key.
    #[error("the time key is not a public key in PEM")]
    Pem(#[source] pem::Error),
    /// Not an uncompressed point on P-256.
    #[error("the time key is not an ECDSA P-256 public key")]
    Kind,
}

impl TimeKey {
    /// Reads a SubjectPublicKeyInfo in PEM.
    ///
    /// # Errors
    /// If it is none, or one of another kind of key.
    pub fn from_pem(text: &str) -> Result<Self, TimeKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(TimeKeyError::Pem)?;
        let point = der.strip_prefix(&BEFORE_POINT).ok_or(TimeKeyError::Kind)?;
        if (point.len(), point.first()) != (POINT.0, Some(&POINT.1)) {
            return Err(TimeKeyError::Kind);
        }
        Ok(Self { point: point.to_vec() })
    }

    /// Whether it has signed this time with this nonce.
    pub fn has_signed(&self, told: &SignedTime) -> bool {
        let Ok(signature) = BASE64.decode(told.signature.as_bytes()) else { return false };
        let text = SignedTime::text(told.time, &told.nonce);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(text.as_bytes(), &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::UnixSeconds;
    use rcgen::{KeyPair, SigningKey as _};

    use super::*;

    const TIME: UnixSeconds = UnixSeconds(1_800_000_000);

    fn told(key: &KeyPair, nonce: &str) -> SignedTime {
        let signature = key.sign(SignedTime::text(TIME, nonce).as_bytes()).unwrap();
        SignedTime { time: TIME, nonce: nonce.to_owned(), signature: BASE64.encode(&signature) }
    }

    #[test]
    fn only_the_time_key_over_this_nonce_and_this_time_is_believed() {
        let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let time_key = TimeKey::from_pem(&key.public_key_pem()).unwrap();
        let good = told(&key, "aa");
        assert!(time_key.has_signed(&good));
        assert!(!time_key.has_signed(&told(&stranger, "aa")));
        assert!(!time_key.has_signed(&SignedTime { nonce: "bb".to_owned(), ..good.clone() }));
        assert!(!time_key.has_signed(&SignedTime { time: UnixSeconds(4_070_908_800), ..good.clone() }));
        assert!(!time_key.has_signed(&SignedTime { signature: String::new(), ..good }));
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().public_key_pem();
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
        for key in [ed25519.as_str(), p384.as_str(), "", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"] {
            assert!(TimeKey::from_pem(key).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_believed_that_the_key_did_not_sign(signature: Vec<u8>, nonce: String, time: u64) {
            let key = TimeKey { point: [&[4][..], &[7; 64]].concat() };
            let signature = BASE64.encode(&signature);
            let told = SignedTime { time: UnixSeconds(time), nonce, signature };
            prop_assert!(!key.has_signed(&told));
        }
    }
}
