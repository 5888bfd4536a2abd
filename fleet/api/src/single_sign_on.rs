//! Signing in with the identity provider of an account, from a program without a browser of its own: begin, send a person to an address, take
//! the one-time code that they come back with, get a session for it.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use protocol_types::{AccountName, Digest, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Client, ClientError, CreatedToken, TokenScope};

/// Begins to sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginSingleSignOn {
    /// The account of the user.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// The challenge of a verifier that nobody else knows: SHA-256 in base64url without padding (RFC 7636, `S256`).
    #[schema(pattern = "^[A-Za-z0-9_-]{43}$")]
    pub challenge: String,
    /// The port of 127.0.0.1 at which the program waits for the browser (RFC 8252, section 7.3). Without it the person is shown the
    /// one-time code and carries it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1024)]
    pub port: Option<u16>,
    /// What the session allows at most; without it, all that the user's roles allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<TokenScope>>,
}

/// A sign-in that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BegunSingleSignOn {
    /// Its id.
    pub id: String,
    /// Where the person has to go with a browser.
    pub address: String,
    /// When it comes to nothing, in Unix seconds.
    #[schema(value_type = u64)]
    pub expires: UnixSeconds,
}

/// Ends a sign-in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishSingleSignOn {
    /// Its id.
    #[schema(max_length = 64)]
    pub id: String,
    /// The verifier whose challenge it began with: 43 to 128 characters.
    #[schema(max_length = 128)]
    pub verifier: String,
    /// The one-time code.
    #[schema(max_length = 64)]
    pub code: String,
}

impl fmt::Debug for FinishSingleSignOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishSingleSignOn").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The challenge of a verifier (RFC 7636, section 4.2, `S256`).
pub fn code_challenge(verifier: &str) -> String {
    BASE64URL_NOPAD.encode(Digest::of(verifier.as_bytes()).as_bytes())
}

impl Client {
    /// Begins to sign in.
    pub async fn begin_single_sign_on(&self, wanted: &BeginSingleSignOn) -> Result<BegunSingleSignOn, ClientError> {
        self.post("/single-sign-on", wanted).await
    }

    /// Ends a sign-in with a session.
    pub async fn finish_single_sign_on(&self, shown: &FinishSingleSignOn) -> Result<CreatedToken, ClientError> {
        self.post("/single-sign-on/session", shown).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(code_challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
