//! Codes that people type: 80 random bits in base 32, so a plain digest keeps them.

use data_encoding::BASE32_NOPAD;
use protocol_types::Digest;
use zeroize::Zeroizing;

use crate::{Random, random::RandomError};

/// Characters of a code without its dashes.
const CHARACTERS: usize = 16;
const GROUP: usize = 4;

/// A code.
pub(crate) struct TypedCode(Zeroizing<String>);

impl TypedCode {
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

    /// What the store keeps, different for each purpose.
    pub(crate) fn digest(&self, purpose: &str) -> Digest {
        Digest::of(Zeroizing::new(format!("{purpose}\n{}", *self.0)).as_bytes())
    }
}

impl std::fmt::Debug for TypedCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TypedCode")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_code_reads_back_however_it_is_typed_and_nothing_shows_it() {
        let code = TypedCode::new(&Random::system()).unwrap();
        let text = code.reveal();
        assert_eq!((text.len(), text.matches('-').count()), (19, 3));
        for typed in [text.clone(), text.replace('-', ""), text.to_uppercase(), text.replace('-', " ")] {
            assert_eq!(TypedCode::parse(&typed).unwrap().digest("door"), code.digest("door"));
        }
        assert_ne!(code.digest("door"), code.digest("gate"));
        assert_eq!(format!("{code:?}"), "TypedCode");
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_a_code_or_none(text in ".{0,100}") {
            if let Some(code) = TypedCode::parse(&text) {
                prop_assert_eq!(code.reveal().len(), 19);
            }
        }
    }
}
