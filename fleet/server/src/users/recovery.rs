//! Recovery codes: each stands once for the authenticator, for a person who has lost it.

use protocol_types::{AccountName, Digest};

use super::typed_code::TypedCode;
use crate::{Random, random::RandomError};

/// A recovery code.
#[derive(Debug)]
pub(crate) struct RecoveryCode(TypedCode);

impl RecoveryCode {
    /// How many a user gets.
    pub(crate) const HOW_MANY: usize = 10;

    pub(crate) fn new(random: &Random) -> Result<Self, RandomError> {
        TypedCode::new(random).map(Self)
    }

    /// Reads what a person typed; `None` if it cannot be a code.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        TypedCode::parse(text).map(Self)
    }

    /// As people write it down.
    pub(crate) fn reveal(&self) -> String {
        self.0.reveal()
    }

    /// What the store keeps, different for each user.
    pub(crate) fn hash(&self, account: &AccountName, name: &str) -> Digest {
        self.0.digest(&format!("mbl-recovery-code\n{account}/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_kept_apart_for_each_user() {
        let acme = AccountName::new("acme").unwrap();
        let code = RecoveryCode::parse("abcd-efgh-ijkl-mnop").unwrap();
        assert_ne!(code.hash(&acme, "anna"), code.hash(&acme, "bert"));
        // What the databases of earlier releases hold.
        let text = "mbl-recovery-code\nacme/anna\nabcdefghijklmnop";
        assert_eq!(code.hash(&acme, "anna"), Digest::of(text.as_bytes()));
    }
}
