//! The words of the kernel's command line that are for us. The line is part of the signed image: the updater reads it there before
//! it arms an image, the initrd where the kernel shows it. Never touches a disk.

use crate::{BoardName, Digest, SecurityVersion};

/// What the signed command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCmdline {
    /// `roothash=`: the root of the hash tree over the root file system.
    pub root_hash: Digest,
    /// `mbl.security_version=`: what is held against the floor.
    pub security_version: SecurityVersion,
    /// `mbl.key_store=`: where the floor and the key of the state are.
    pub key_store: KeyStore,
    /// `mbl.board=`: the board that the image was built for.
    pub board: Option<BoardName>,
}

/// Where a board keeps its floor and the key of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStore {
    /// `tpm2`: a TPM 2.0.
    Tpm2,
    /// `tee`: a trusted application of ours in a TEE.
    Tee,
    /// `none`: nowhere. No floor is enforced, and no state is kept, since it could not be encrypted.
    None,
}

/// A command line that is not of our images.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// Longer than the kernel's own limit on any architecture.
    #[error("the command line has more than {} bytes", SignedCmdline::MAX_BYTES)]
    TooLong,
    /// A byte outside of ASCII.
    #[error("the command line is not ASCII")]
    NotAscii,
    /// A word that must be there is not.
    #[error("the command line has no `{0}`")]
    Missing(&'static str),
    /// A word stands twice, so it is not clear which counts.
    #[error("the command line has `{0}` twice")]
    Twice(&'static str),
    /// Somebody put words behind the signed ones.
    #[error("the command line goes on behind `{}`", SignedCmdline::END)]
    GoesOn,
    /// The value of a word is none of those that it may have.
    #[error("the command line's `{word}` must be {must_be}")]
    Value {
        /// The word.
        word: &'static str,
        /// What it may be.
        must_be: &'static str,
    },
}

const ROOT_HASH: &str = "roothash";
const SECURITY_VERSION: &str = "mbl.security_version";
const KEY_STORE: &str = "mbl.key_store";
const BOARD: &str = "mbl.board";

impl SignedCmdline {
    /// Upper bound for the text in bytes.
    pub const MAX_BYTES: usize = 8192;
    /// The last word of a signed line. The stub in the image adds what the firmware's tables hold for it, whatever the signature says.
    pub const END: &str = "mbl.end";

    /// Reads the line; words of others are passed over.
    ///
    /// # Errors
    /// If a word of ours is missing, stands twice or has a value that it may not have.
    pub fn parse(bytes: &[u8]) -> Result<Self, CmdlineError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(CmdlineError::TooLong);
        }
        let text = std::str::from_utf8(bytes).ok().filter(|t| t.is_ascii()).ok_or(CmdlineError::NotAscii)?;
        let word = |name| -> Result<Option<&str>, CmdlineError> {
            let mut values = text.split_ascii_whitespace().filter_map(|w| w.strip_prefix(name)?.strip_prefix('='));
            match (values.next(), values.next()) {
                (value, None) => Ok(value),
                (_, Some(_)) => Err(CmdlineError::Twice(name)),
            }
        };
        if text.split_ascii_whitespace().skip_while(|word| *word != Self::END).nth(1).is_some() {
            return Err(CmdlineError::GoesOn);
        }
        let needed = |name| word(name)?.ok_or(CmdlineError::Missing(name));
        let wrong = |word, must_be| CmdlineError::Value { word, must_be };
        Ok(Self {
            root_hash: Digest::from_hex(needed(ROOT_HASH)?)
                .map_err(|_| wrong(ROOT_HASH, "64 lower-case hexadecimal digits"))?,
            security_version: number(needed(SECURITY_VERSION)?)
                .ok_or_else(|| wrong(SECURITY_VERSION, "a number below 4294967296"))?,
            key_store: match needed(KEY_STORE)? {
                "tpm2" => KeyStore::Tpm2,
                "tee" => KeyStore::Tee,
                "none" => KeyStore::None,
                _ => return Err(wrong(KEY_STORE, "`tpm2`, `tee` or `none`")),
            },
            board: match word(BOARD)? {
                None => None,
                Some(name) => Some(BoardName::new(name).map_err(|_| wrong(BOARD, "a board name"))?),
            },
        })
    }
}

/// Digits only: `parse` alone would accept a sign.
fn number(text: &str) -> Option<SecurityVersion> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok().map(SecurityVersion) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(extra: &str) -> String {
        format!("roothash={} mbl.security_version=7 mbl.key_store=tpm2 quiet {extra}\n", Digest::of(b"root").hex())
    }

    #[test]
    fn the_words_of_others_are_passed_over() {
        let cmdline =
            SignedCmdline::parse(line("console=ttyAMA0 panic=5 roothashes=1 mbl.board=qemu-arm64-tpm").as_bytes());
        assert_eq!(
            cmdline,
            Ok(SignedCmdline {
                root_hash: Digest::of(b"root"),
                security_version: SecurityVersion(7),
                key_store: KeyStore::Tpm2,
                board: Some(BoardName::new("qemu-arm64-tpm").unwrap()),
            })
        );
    }

    #[test]
    fn a_word_that_stands_twice_is_refused() {
        let twice = line("mbl.security_version=9");
        assert_eq!(SignedCmdline::parse(twice.as_bytes()), Err(CmdlineError::Twice(SECURITY_VERSION)));
    }

    #[test]
    fn a_line_that_goes_on_behind_its_end_is_refused() {
        assert!(SignedCmdline::parse(line("mbl.end").as_bytes()).is_ok());
        let longer = line("mbl.end systemd.run=/bin/true");
        assert_eq!(SignedCmdline::parse(longer.as_bytes()), Err(CmdlineError::GoesOn));
    }

    #[test]
    fn a_line_without_any_of_the_needed_words_is_refused() {
        for word in [ROOT_HASH, SECURITY_VERSION, KEY_STORE] {
            let without = line("").replace(word, "other");
            assert_eq!(SignedCmdline::parse(without.as_bytes()), Err(CmdlineError::Missing(word)));
        }
    }

    #[test]
    fn a_security_version_with_a_sign_or_beyond_its_type_is_refused() {
        for number in ["+7", "-1", "4294967296", ""] {
            let text = line("").replace("version=7", &format!("version={number}"));
            assert!(SignedCmdline::parse(text.as_bytes()).is_err(), "{number}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            drop(SignedCmdline::parse(&bytes));
        }

        #[test]
        fn any_text_after_a_good_line_cannot_change_what_it_says(extra in "[ -~]{0,64}") {
            let plain = SignedCmdline::parse(line("").as_bytes()).unwrap();
            if let Ok(read) = SignedCmdline::parse(line(&extra).as_bytes()) {
                prop_assert_eq!(SignedCmdline { board: None, ..read }, plain);
            }
        }
    }
}
