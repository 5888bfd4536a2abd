//! The keys that a provider publishes (JSON Web Key Set, RFC 7517). Keys of unknown kinds are passed over.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// Keys of a set that are looked at.
const MOST_KEYS: usize = 64;

/// The keys of a provider.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeySet(Vec<Jwk>);

impl KeySet {
    /// Reads a set; nothing if it is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let Set { keys } = serde_json::from_slice(bytes).ok()?;
        Some(Self(keys.into_iter().take(MOST_KEYS).filter_map(|key| serde_json::from_value(key).ok()).collect()))
    }

    /// The keys with which something may be signed by this algorithm.
    pub(super) fn for_signatures(&self, algorithm: Algorithm) -> impl Iterator<Item = &Jwk> {
        self.0.iter().filter(move |key| {
            let common = &key.common;
            let is_for_signatures = common.public_key_use.as_ref().is_none_or(|is| *is == PublicKeyUse::Signature);
            let named = common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm));
            is_for_signatures && named && suits(&key.algorithm, algorithm)
        })
    }
}

/// Whether a key is of the kind that an algorithm asks for.
fn suits(key: &AlgorithmParameters, algorithm: Algorithm) -> bool {
    match (algorithm.family(), key) {
        (AlgorithmFamily::Rsa, AlgorithmParameters::RSA(_)) => true,
        (AlgorithmFamily::Ec, AlgorithmParameters::EllipticCurve(key)) => match algorithm {
            Algorithm::ES256 => key.curve == EllipticCurve::P256,
            Algorithm::ES384 => key.curve == EllipticCurve::P384,
            _ => false,
        },
        (AlgorithmFamily::Ed, AlgorithmParameters::OctetKeyPair(key)) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_for_other_things_are_passed_over() {
        let rsa = |more: Value| {
            let mut key = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let keys = json!({"keys": [
            rsa(json!({"kid": "any"})),
            rsa(json!({"kid": "ours", "use": "sig", "alg": "RS256"})),
            rsa(json!({"kid": "other", "alg": "PS256"})),
            rsa(json!({"kid": "secret", "use": "enc"})),
            {"kty": "EC", "kid": "curve", "crv": "P-256", "x": "AQAB", "y": "AQAB"},
            {"kty": "EC", "kid": "coin", "crv": "secp256k1", "x": "AQAB", "y": "AQAB"},
            {"kty": "oct", "kid": "shared", "k": "AQAB"},
            {"kty": "new", "kid": "unknown"},
            "no key",
        ]});
        let keys = KeySet::parse(keys.to_string().as_bytes()).unwrap();
        let found = |algorithm| -> Vec<String> {
            keys.for_signatures(algorithm).filter_map(|key| key.common.key_id.clone()).collect()
        };
        assert_eq!(found(Algorithm::RS256), ["any", "ours"]);
        assert_eq!(found(Algorithm::PS256), ["any", "other"]);
        assert_eq!(found(Algorithm::ES256), ["curve"]);
        assert!(found(Algorithm::HS256).is_empty() && found(Algorithm::EdDSA).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_a_provider_publishes_is_a_set_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            KeySet::parse(&bytes);
        }
    }
}
