//! The service's signed time: what is asked, and whether an answer may be believed. Never sets the system's clock.

use std::sync::Arc;

use protocol_time::TimeKey;
use protocol_types::SignedTime;
use rustls::ClientConfig;

use crate::{
    address::ServerAddress,
    dial::DialError,
    http::{HttpConnection, HttpError},
    network::Network,
    random,
};

/// The longest answer in bytes.
const MAX_ANSWER_BYTES: usize = 4096;

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

/// Asks the artifact server for the time over a connection of its own and checks the answer.
pub async fn ask_time(
    network: &dyn Network,
    server: &ServerAddress,
    tls: Arc<ClientConfig>,
    key: &TimeKey,
) -> Result<SignedTime, TimeError> {
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
        200 => verify(key, &nonce, &answer.body),
        other => Err(TimeError::Status(other)),
    }
}

/// Takes the answer to a question with `nonce`, if the time key stands behind it.
fn verify(key: &TimeKey, nonce: &str, answer: &[u8]) -> Result<SignedTime, TimeError> {
    let told: SignedTime = serde_json::from_slice(answer).map_err(TimeError::Malformed)?;
    if told.nonce != nonce {
        return Err(TimeError::Nonce);
    }
    if key.has_signed(&told) { Ok(told) } else { Err(TimeError::Signature) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::UnixSeconds;
    use rcgen::{KeyPair, SigningKey};

    use super::*;

    const TIME: UnixSeconds = UnixSeconds(1_800_000_000);

    fn time_key(key: &KeyPair) -> TimeKey {
        TimeKey::from_pem(&key.public_key_pem()).unwrap()
    }

    /// An answer that names `nonce` under a signature for `signed_nonce`.
    fn answer(key: &KeyPair, signed_nonce: &str, nonce: &str) -> Vec<u8> {
        let signature = key.sign(SignedTime::text(TIME, signed_nonce).as_bytes()).unwrap();
        let signature = data_encoding::BASE64.encode(&signature);
        serde_json::to_vec(&SignedTime { time: TIME, nonce: nonce.to_owned(), signature }).unwrap()
    }

    #[test]
    fn only_an_answer_to_this_question_is_believed() {
        let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let time_key = time_key(&key);
        let good = answer(&key, "aa", "aa");
        assert_eq!(verify(&time_key, "aa", &good).unwrap().time, TIME);
        assert!(matches!(verify(&time_key, "bb", &good), Err(TimeError::Nonce)), "an old answer");
        let replayed = answer(&key, "aa", "bb");
        assert!(matches!(verify(&time_key, "bb", &replayed), Err(TimeError::Signature)));
        let forged = answer(&stranger, "aa", "aa");
        assert!(matches!(verify(&time_key, "aa", &forged), Err(TimeError::Signature)));
        assert!(matches!(verify(&time_key, "aa", b"{}"), Err(TimeError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_are_believed_that_the_key_did_not_sign(answer: Vec<u8>) {
            prop_assert!(verify(&time_key(&KeyPair::generate().unwrap()), "aa", &answer).is_err());
        }
    }
}
