//! Signatures of what is sent, as Standard Webhooks 1.0 defines them: HMAC-SHA-256 over id, time and body. A receiver that checks them
//! knows who sent it and that it is not an old message sent again.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use protocol_types::UnixSeconds;
use zeroize::Zeroizing;

use crate::{Random, random::RandomError};

/// A secret that signs; 256 random bits. The service must know it to sign, so it lies in the database as it is.
pub(crate) struct WebhookSecret(Zeroizing<[u8; 32]>);

impl WebhookSecret {
    pub(crate) fn new(random: &Random) -> Result<Self, RandomError> {
        Ok(Self(Zeroizing::new(random.bytes::<32>()?)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &*self.0
    }

    /// The text that receivers are given.
    pub(crate) fn reveal(&self) -> String {
        format!("whsec_{}", BASE64.encode(&*self.0))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// The value of `webhook-signature`: one signature for each secret.
pub(super) fn signature(secrets: &[Vec<u8>], id: &str, time: UnixSeconds, body: &[u8]) -> String {
    let signed = secrets.iter().map(|secret| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
        context.update(format!("{id}.{}.", time.0).as_bytes());
        context.update(body);
        format!("v1,{}", BASE64.encode(context.sign().as_ref()))
    });
    signed.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_signed_as_there() {
        let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let (time, body) = (UnixSeconds(1_614_265_330), br#"{"test": 2432232314}"#);
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signature(std::slice::from_ref(&secret), id, time, body), expected);
        let both = signature(&[b"other".to_vec(), secret], id, time, body);
        assert!(both.ends_with(&format!(" {expected}")) && both.starts_with("v1,"), "{both}");
    }

    #[test]
    fn a_secret_says_nothing_of_itself_unless_asked() {
        let secret = WebhookSecret::new(&Random::system()).unwrap();
        assert_eq!(format!("{secret:?}"), "WebhookSecret");
        let text = secret.reveal();
        assert_eq!(BASE64.decode(text.strip_prefix("whsec_").unwrap().as_bytes()).unwrap(), secret.bytes());
    }
}
