//! Recovery codes: each stands once for the authenticator, for a person who has lost it. 80 random bits, so a plain digest keeps them.

use data_encoding::BASE32_NOPAD;
use protocol_types::{AccountName, Digest};
use zeroize::Zeroizing;

use crate::{Random, random::RandomError};

/// Characters of a code without its dashes.
const CHARACTERS: usize = 16;
const GROUP: usize = 4;

/// A recovery code.
pub(crate) struct RecoveryCode(Zeroizing<String>);

impl RecoveryCode {
    /// How many a user gets.
    pub(crate) const HOW_MANY: usize = 10;

    pub(crate) fn new(random: &Random) -> Result<Self, RandomError> {
        let bytes = Zeroizing::new(random.bytes::<10>()?);
        Ok(Self(Zeroizing::new(BASE32_NOPAD.encode(&*bytes).to_ascii_lowercase())))
    }

    /// Reads what a person typed, dashes and spaces or not; `None` if it cannot be a code.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > 4 * CHARACTERS {
            return None;
        }
        let plain: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_ascii_lowercase()).collect();
        let fits = plain.len() == CHARACTERS && plain.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        fits.then(|| Self(Zeroizing::new(plain)))
    }

    /// As people write it down: four groups of four.
    pub(crate) fn reveal(&self) -> String {
        let groups: Vec<&str> = self.0.as_bytes().chunks(GROUP).filter_map(|four| str::from_utf8(four).ok()).collect();
        groups.join("-")
    }

    /// What the store keeps, different for each user.
    pub(crate) fn hash(&self, account: &AccountName, name: &str) -> Digest {
        Digest::of(format!("mbl-recovery-code\n{account}/{name}\n{}", *self.0).as_bytes())
    }
}

impl std::fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryCode")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_code_reads_back_however_it_is_typed_and_is_kept_apart_for_each_user() {
        let acme = AccountName::new("acme").unwrap();
        let code = RecoveryCode::new(&Random::system()).unwrap();
        let text = code.reveal();
        assert_eq!((text.len(), text.matches('-').count()), (19, 3));
        for typed in [text.clone(), text.replace('-', ""), text.to_uppercase(), text.replace('-', " ")] {
            assert_eq!(RecoveryCode::parse(&typed).unwrap().hash(&acme, "anna"), code.hash(&acme, "anna"));
        }
        assert_ne!(code.hash(&acme, "anna"), code.hash(&acme, "bert"));
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_a_code_or_none(text in ".{0,100}") {
            if let Some(code) = RecoveryCode::parse(&text) {
                prop_assert_eq!(code.reveal().len(), 19);
            }
        }
    }
}
