//! Secrets that the service gives out: `mblt_` for a token or `mbli_` for an invitation, and 32 random bytes in base 32. Never stored and
//! never logged.

use std::{fmt, marker::PhantomData};

use data_encoding::BASE32_NOPAD;
use protocol_types::Digest;
use zeroize::Zeroizing;

use crate::{Random, random::RandomError};

/// A secret; 256 random bits, so its plain SHA-256 cannot be guessed back.
pub(crate) struct Secret<K>(Zeroizing<String>, PhantomData<K>);

/// What a secret is for.
pub(crate) trait Purpose {
    /// What it begins with.
    const PREFIX: &'static str;
}

/// To act.
#[derive(Debug)]
pub(crate) struct Token;
/// To begin.
#[derive(Debug)]
pub(crate) struct Invitation;

impl Purpose for Token {
    const PREFIX: &'static str = "mblt_";
}

impl Purpose for Invitation {
    const PREFIX: &'static str = "mbli_";
}

/// The secret of a token.
pub(crate) type TokenSecret = Secret<Token>;
/// The secret of an invitation.
pub(crate) type InvitationSecret = Secret<Invitation>;

const CHARACTERS: usize = 52;

impl<K: Purpose> Secret<K> {
    pub(crate) fn new(random: &Random) -> Result<Self, RandomError> {
        let bytes = Zeroizing::new(random.bytes::<32>()?);
        let text = format!("{}{}", K::PREFIX, BASE32_NOPAD.encode(&*bytes).to_ascii_lowercase());
        Ok(Self(Zeroizing::new(text), PhantomData))
    }

    /// Reads what a caller sent; `None` if it cannot be a secret of this service.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let random = text.strip_prefix(K::PREFIX)?;
        let fits = random.len() == CHARACTERS && random.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        fits.then(|| Self(Zeroizing::new(text.to_owned()), PhantomData))
    }

    /// What the store keeps. Looking a digest up leaks, by its timing, only digests, from which no secret follows.
    pub(crate) fn hash(&self) -> String {
        Digest::of(self.0.as_bytes()).hex()
    }

    /// The token's public name: the beginning of another digest, so that it tells nothing of either.
    pub(crate) fn id(&self) -> String {
        Digest::of(self.hash().as_bytes()).hex()[..16].to_owned()
    }

    /// The text itself, for its owner.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl<K> fmt::Debug for Secret<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_nothing_shows_it() {
        let secret = TokenSecret::new(&Random::system()).unwrap();
        let text = secret.reveal().to_owned();
        assert_eq!(TokenSecret::parse(&text).unwrap().hash(), secret.hash());
        assert!(!format!("{secret:?}{}{}", secret.hash(), secret.id()).contains(&text[5..]));
        for wrong in ["", "mblt_", &text[1..], &format!("{text}a"), &text.to_uppercase()] {
            assert!(TokenSecret::parse(wrong).is_none(), "{wrong}");
        }
        assert!(InvitationSecret::parse(&text).is_none(), "a token is no invitation");
    }
}
