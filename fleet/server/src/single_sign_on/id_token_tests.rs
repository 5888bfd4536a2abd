//! Tokens that these tests sign themselves: the good one, and one for each way to be bad.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const EXPECTED: Expected<'static> = Expected { issuer: "https://login.example", client_id: "mbl", nonce: "n-1" };

/// A key of a provider.
struct Signer {
    key: EncodingKey,
    id: &'static str,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self { key: EncodingKey::from_ec_der(document.as_ref()), id }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.key).unwrap()
    }

    fn public(&self) -> Value {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        key.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(key).unwrap()
    }
}

fn published(signers: &[&Signer]) -> KeySet {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.public()).collect();
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

/// The claims of a good token, with others in their place; `null` takes one away.
fn claims(other: Value) -> Value {
    let mut claims = json!({
        "iss": "https://login.example", "aud": "mbl", "sub": "person-1", "nonce": "n-1",
        "iat": NOW.0 - 5, "exp": NOW.0 + 300, "email": "anna@example.com",
    });
    for (name, value) in other.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

#[test]
fn a_token_of_the_issuer_for_us_now_and_for_this_sign_in_is_taken() {
    let signer = Signer::new("k1");
    let keys = published(&[&signer, &Signer::new("k2")]);
    for other in [
        json!({}),
        json!({"aud": ["mbl"]}),
        json!({"aud": ["mbl", "portal"], "azp": "mbl"}),
        json!({"azp": "mbl"}),
        json!({"exp": NOW.0 - 59}),
        json!({"iat": NOW.0 + 60, "nbf": NOW.0 + 60}),
    ] {
        let token = verify(&signer.sign(&claims(other.clone())), &keys, EXPECTED, NOW).unwrap();
        assert_eq!(
            (token.subject.as_str(), &token.claims["email"]),
            ("person-1", &json!("anna@example.com")),
            "{other}"
        );
    }
}

#[test]
fn every_other_token_is_refused_with_the_reason() {
    let signer = Signer::new("k1");
    let keys = published(&[&signer]);
    for (other, error) in [
        (json!({"iss": "https://login.example/"}), TokenError::Issuer),
        (json!({"iss": "https://stranger.example"}), TokenError::Issuer),
        (json!({"iss": null}), TokenError::Claim("iss")),
        (json!({"aud": "portal"}), TokenError::Audience),
        (json!({"aud": []}), TokenError::Audience),
        (json!({"aud": ["mbl", "portal"]}), TokenError::Audience),
        (json!({"aud": ["mbl", "portal"], "azp": "portal"}), TokenError::Audience),
        (json!({"azp": "portal"}), TokenError::Audience),
        (json!({"aud": 7}), TokenError::Claim("aud")),
        (json!({"aud": null}), TokenError::Claim("aud")),
        (json!({"exp": NOW.0 - 60}), TokenError::Expired),
        (json!({"exp": null}), TokenError::Claim("exp")),
        (json!({"exp": "soon"}), TokenError::Claim("exp")),
        (json!({"iat": NOW.0 + 61}), TokenError::Early),
        (json!({"iat": null}), TokenError::Claim("iat")),
        (json!({"nbf": NOW.0 + 61}), TokenError::Early),
        (json!({"nonce": "n-2"}), TokenError::Nonce),
        (json!({"nonce": null}), TokenError::Claim("nonce")),
        (json!({"sub": null}), TokenError::Claim("sub")),
        (json!({"sub": ""}), TokenError::Claim("sub")),
        (json!({"sub": "x".repeat(256)}), TokenError::Claim("sub")),
    ] {
        let refused = verify(&signer.sign(&claims(other.clone())), &keys, EXPECTED, NOW);
        assert_eq!(refused, Err(error), "{other}");
    }
}

#[test]
fn a_stranger_s_signature_and_a_key_that_is_not_published_are_two_reasons() {
    let (signer, stranger) = (Signer::new("k1"), Signer::new("k1"));
    let token = stranger.sign(&claims(json!({})));
    assert_eq!(verify(&token, &published(&[&signer]), EXPECTED, NOW), Err(TokenError::Signature));
    let rotated = Signer::new("k2").sign(&claims(json!({})));
    assert_eq!(verify(&rotated, &published(&[&signer]), EXPECTED, NOW), Err(TokenError::UnknownKey));
    assert_eq!(verify(&rotated, &KeySet::default(), EXPECTED, NOW), Err(TokenError::UnknownKey));
    let twice = published(&[&signer, &stranger]);
    assert_eq!(verify(&token, &twice, EXPECTED, NOW), Err(TokenError::AmbiguousKey));
}

#[test]
fn no_algorithm_with_a_shared_secret_or_without_any_is_taken() {
    let signer = Signer::new("k1");
    let keys = published(&[&signer]);
    let shared =
        encode(&Header::new(Algorithm::HS256), &claims(json!({})), &EncodingKey::from_secret(b"client secret"));
    assert_eq!(verify(&shared.unwrap(), &keys, EXPECTED, NOW), Err(TokenError::Algorithm));
    // `{"alg":"none"}`, and nothing where the signature stands.
    let good = signer.sign(&claims(json!({})));
    let body = good.split('.').nth(1).unwrap();
    assert_eq!(verify(&format!("eyJhbGciOiJub25lIn0.{body}."), &keys, EXPECTED, NOW), Err(TokenError::Malformed));
    let unsigned = good.rsplit_once('.').unwrap().0;
    assert_eq!(verify(&format!("{unsigned}."), &keys, EXPECTED, NOW), Err(TokenError::Signature));
}

#[test]
fn a_header_with_something_critical_is_refused() {
    let signer = Signer::new("k1");
    let header =
        Header { kid: Some("k1".to_owned()), crit: Some(vec!["exp".to_owned()]), ..Header::new(Algorithm::ES256) };
    let token = encode(&header, &claims(json!({})), &signer.key).unwrap();
    assert_eq!(verify(&token, &published(&[&signer]), EXPECTED, NOW), Err(TokenError::Malformed));
}

#[test]
fn a_token_that_was_changed_anywhere_is_refused() {
    let signer = Signer::new("k1");
    let keys = published(&[&signer]);
    let token = signer.sign(&claims(json!({})));
    for at in 0..token.len() - 1 {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(verify(&changed, &keys, EXPECTED, NOW).is_err(), "changed at {at}");
    }
    assert_eq!(verify(&"a".repeat(MAX_BYTES + 1), &keys, EXPECTED, NOW), Err(TokenError::TooLong));
}

proptest! {
    #[test]
    fn whatever_comes_is_no_token(text in "[A-Za-z0-9_.-]{0,200}") {
        prop_assert!(verify(&text, &published(&[]), EXPECTED, NOW).is_err());
    }
}
