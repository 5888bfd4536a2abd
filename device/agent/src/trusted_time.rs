//! The service's signed time: what is asked, and whether an answer may be believed. Never sets the system's clock.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use protocol_types::UnixSeconds;
use rustls::ClientConfig;
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use crate::{
    address::ServerAddress,
    dial::DialError,
    http::{HttpConnection, HttpError},
    network::Network,
    random,
};

/// The longest answer in bytes.
const MAX_ANSWER_BYTES: usize = 4096;

/// The public key that signs time.
#[derive(Clone, Debug)]
pub struct TimeKey {
    /// Uncompressed point on P-256.
    point: Vec<u8>,
}

/// A time key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TimeKeyError {
    /// Not PEM with a public key.
    #[error("the time key is not a public key in PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Not an uncompressed point on P-256.
    #[error("the time key is not an ECDSA P-256 public key")]
    Kind,
}

/// A signed time that is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// Not the expected JSON.
    #[error("the answer is not a signed time")]
    Malformed(#[source] serde_json::Error),
    /// Another nonce, so perhaps an old answer.
    #[error("the answer carries another nonce than was asked with")]
    Nonce,
    /// Not signed by the time key.
    #[error("the answer is not signed by the time key of the factory document")]
    Signature,
    /// The server was not reached.
    #[error("cannot ask the time")]
    Dial(#[from] DialError),
    /// No answer.
    #[error("no answer to the question for the time")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server refused to tell.
    #[error("the server refused to tell the time with status {0}")]
    Status(u16),
    /// The operating system gives no random numbers, without which an old answer could pass for a new one.
    #[error("no random numbers for a nonce")]
    Random,
}

#[derive(Deserialize)]
struct SignedTime {
    time: u64,
    nonce: String,
    signature: String,
}

impl TimeKey {
    /// Reads a PEM SubjectPublicKeyInfo.
    pub fn from_pem(text: &str) -> Result<Self, TimeKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(TimeKeyError::Pem)?;
        let (rest, key) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| TimeKeyError::Kind)?;
        let point = key.subject_public_key.data.as_ref();
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let is_p256 = key.algorithm.algorithm == x509_parser::oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve == Some(x509_parser::oid_registry::OID_EC_P256);
        if !rest.is_empty() || !is_p256 || point.len() != 65 || point.first() != Some(&4) {
            return Err(TimeKeyError::Kind);
        }
        Ok(Self { point: point.to_vec() })
    }

    /// Checks an answer to a question with `nonce` and returns the time that it proves.
    pub fn verify(&self, nonce: &str, answer: &[u8]) -> Result<UnixSeconds, TimeError> {
        let answer: SignedTime = serde_json::from_slice(answer).map_err(TimeError::Malformed)?;
        if answer.nonce != nonce {
            return Err(TimeError::Nonce);
        }
        let signature = data_encoding::BASE64.decode(answer.signature.as_bytes()).map_err(|_| TimeError::Signature)?;
        let signed = format!("mbl-time-v1\n{}\n{nonce}", answer.time);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TimeError::Signature)?;
        Ok(UnixSeconds(answer.time))
    }
}

/// Asks the artifact server for the time over a connection of its own and checks the answer.
pub async fn ask_time(
    network: &dyn Network,
    server: &ServerAddress,
    tls: Arc<ClientConfig>,
    key: &TimeKey,
) -> Result<UnixSeconds, TimeError> {
    let mut nonce = [0; 16];
    if !random::fill(&mut nonce) {
        return Err(TimeError::Random);
    }
    let nonce = data_encoding::HEXLOWER.encode(&nonce);
    let failed = |e: HttpError| TimeError::Http(Box::new(e));
    let stream = network.dial(None, server, tls).await?.stream;
    let mut connection = HttpConnection::open(stream, &server.authority()).await.map_err(failed)?;
    let answer = connection.get(&format!("/v1/time?nonce={nonce}"), None, MAX_ANSWER_BYTES).await.map_err(failed)?;
    match answer.status.as_u16() {
        200 => key.verify(&nonce, &answer.body),
        other => Err(TimeError::Status(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::SigningKey;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_are_believed_that_the_key_did_not_sign(answer: Vec<u8>, signature: Vec<u8>, time: u64) {
            let key = TimeKey { point: [&[4][..], &[7; 64]].concat() };
            prop_assert!(key.verify("aa", &answer).is_err());
            let signature = data_encoding::BASE64.encode(&signature);
            let answer = serde_json::json!({ "time": time, "nonce": "aa", "signature": signature }).to_string();
            prop_assert!(matches!(key.verify("aa", answer.as_bytes()), Err(TimeError::Signature)));
        }
    }

    fn answer(key: &rcgen::KeyPair, time: u64, signed_nonce: &str, nonce: &str) -> String {
        let signature = key.sign(format!("mbl-time-v1\n{time}\n{signed_nonce}").as_bytes()).unwrap();
        let signature = data_encoding::BASE64.encode(&signature);
        serde_json::json!({ "time": time, "nonce": nonce, "signature": signature }).to_string()
    }

    #[test]
    fn only_the_time_key_over_this_nonce_and_this_time_is_believed() {
        let (key, stranger) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let time_key = TimeKey::from_pem(&key.public_key_pem()).unwrap();
        let good = answer(&key, 1_800_000_000, "aa", "aa");
        assert_eq!(time_key.verify("aa", good.as_bytes()).unwrap(), UnixSeconds(1_800_000_000));
        assert!(matches!(time_key.verify("bb", good.as_bytes()), Err(TimeError::Nonce)), "an old answer");
        let replayed = answer(&key, 1_800_000_000, "aa", "bb");
        assert!(matches!(time_key.verify("bb", replayed.as_bytes()), Err(TimeError::Signature)));
        let forged = answer(&stranger, 1_800_000_000, "aa", "aa");
        assert!(matches!(time_key.verify("aa", forged.as_bytes()), Err(TimeError::Signature)));
        let altered = good.replace("1800000000", "1900000000");
        assert!(matches!(time_key.verify("aa", altered.as_bytes()), Err(TimeError::Signature)));
        assert!(matches!(time_key.verify("aa", b"{}"), Err(TimeError::Malformed(_))));
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().public_key_pem();
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
        for key in [ed25519.as_str(), p384.as_str(), "", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"] {
            assert!(TimeKey::from_pem(key).is_err(), "{key}");
        }
    }
}
