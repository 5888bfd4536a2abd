//! ID tokens (OpenID Connect Core 1.0, section 3.1.3.7): whether one was signed by its issuer, for us, now, and for this sign-in. A function of the
//! token, the issuer's keys, what is expected, and the present.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind, jwk::Jwk};
use protocol_types::UnixSeconds;
use serde_json::{Map, Value};

use super::keys::KeySet;

/// Longest token, in bytes.
const MAX_BYTES: usize = 16 * 1024;
/// How much the clocks of issuer and service may differ, in seconds.
const LEEWAY_S: u64 = 60;
/// Longest name of a person at an issuer (section 2, `sub`).
const SUBJECT_BYTES: usize = 255;
/// Signatures that are taken. None with a shared secret: whoever knows it could sign.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) nonce: &'a str,
}

/// A token that was verified.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IdToken {
    /// Who it is, in the words of the issuer.
    pub(crate) subject: String,
    /// Everything that it says.
    pub(crate) claims: Map<String, Value>,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the ID token has more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the ID token is not of the form of one")]
    Malformed,
    #[error("the ID token is signed with an algorithm that is not taken")]
    Algorithm,
    #[error("the provider has not published the key of the ID token")]
    UnknownKey,
    #[error("the provider has published several keys that could be that of the ID token")]
    AmbiguousKey,
    #[error("the signature of the ID token is not that of its provider")]
    Signature,
    #[error("the claim `{0}` of the ID token is missing or not of its form")]
    Claim(&'static str),
    #[error("the ID token comes from another issuer")]
    Issuer,
    #[error("the ID token is for somebody else")]
    Audience,
    #[error("the ID token has expired")]
    Expired,
    #[error("the ID token is not valid yet; is a clock wrong?")]
    Early,
    #[error("the ID token is for another sign-in")]
    Nonce,
}

/// Verifies a token.
pub(crate) fn verify(
    token: &str,
    keys: &KeySet,
    expected: Expected<'_>,
    now: UnixSeconds,
) -> Result<IdToken, TokenError> {
    if token.len() > MAX_BYTES {
        return Err(TokenError::TooLong);
    }
    let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(TokenError::Algorithm);
    }
    // No extension is understood, so none may be critical (RFC 7515, section 4.1.11).
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    let key = key_for(keys, header.alg, header.kid.as_deref())?;
    let key = DecodingKey::from_jwk(key).map_err(|_| TokenError::UnknownKey)?;
    let mut validation = Validation::new(header.alg);
    // What the token says is held against our own clock below.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let read = decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        _ => TokenError::Malformed,
    })?;
    let claims = read.claims;
    check(&claims, expected, now)?;
    let subject = text(&claims, "sub").filter(|subject| (1..=SUBJECT_BYTES).contains(&subject.len()));
    let subject = subject.ok_or(TokenError::Claim("sub"))?.to_owned();
    Ok(IdToken { subject, claims })
}

/// The one key with which a token may be signed that names this algorithm and key.
fn key_for<'a>(keys: &'a KeySet, algorithm: Algorithm, id: Option<&str>) -> Result<&'a Jwk, TokenError> {
    let mut found = keys.for_signatures(algorithm).filter(|key| id.is_none() || key.common.key_id.as_deref() == id);
    match (found.next(), found.next()) {
        (Some(key), None) => Ok(key),
        (None, _) => Err(TokenError::UnknownKey),
        (Some(_), Some(_)) => Err(TokenError::AmbiguousKey),
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

fn check(claims: &Map<String, Value>, expected: Expected<'_>, now: UnixSeconds) -> Result<(), TokenError> {
    if text(claims, "iss").ok_or(TokenError::Claim("iss"))? != expected.issuer {
        return Err(TokenError::Issuer);
    }
    check_audience(claims, expected.client_id)?;
    let latest = now.0.saturating_add(LEEWAY_S);
    let time = |name: &'static str| claims.get(name).map(|value| value.as_u64().ok_or(TokenError::Claim(name)));
    let expires = time("exp").ok_or(TokenError::Claim("exp"))??;
    if expires.saturating_add(LEEWAY_S) <= now.0 {
        return Err(TokenError::Expired);
    }
    let issued = time("iat").ok_or(TokenError::Claim("iat"))??;
    if issued > latest || time("nbf").transpose()?.is_some_and(|from| from > latest) {
        return Err(TokenError::Early);
    }
    let nonce = text(claims, "nonce").ok_or(TokenError::Claim("nonce"))?;
    verify_slices_are_equal(nonce.as_bytes(), expected.nonce.as_bytes()).map_err(|_| TokenError::Nonce)
}

/// Whether the token is for us; one that is also for others must have been asked for by us.
fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), TokenError> {
    let party = match claims.get("azp") {
        None => None,
        Some(party) => Some(party.as_str().ok_or(TokenError::Claim("azp"))?),
    };
    let others = match claims.get("aud").ok_or(TokenError::Claim("aud"))? {
        Value::String(one) if one == client_id => false,
        Value::Array(all) if all.iter().any(|one| one.as_str() == Some(client_id)) => all.len() > 1,
        Value::String(_) | Value::Array(_) => return Err(TokenError::Audience),
        _ => return Err(TokenError::Claim("aud")),
    };
    match party {
        Some(party) if party == client_id => Ok(()),
        None if !others => Ok(()),
        Some(_) | None => Err(TokenError::Audience),
    }
}

#[cfg(test)]
#[path = "id_token_tests.rs"]
mod tests;
