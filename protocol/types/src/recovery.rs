//! The recovery key of a device's state, sealed to its account: for whom, for which volume, and the sealed bytes. Never seals or opens
//! one: that takes the initrd's program and the account's private key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::boot_record::Format1;

/// The public half of an account's recovery key, for X25519 (RFC 7748); its text form is `x25519:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecoveryKey([u8; 32]);

/// A text that is no recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recovery key must be `x25519:` and 64 lower-case hexadecimal digits")]
pub struct RecoveryKeyError;

impl RecoveryKey {
    /// A key whose 32 bytes are known already.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x25519:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecoveryKey {
    type Err = RecoveryKeyError;
    fn from_str(text: &str) -> Result<Self, RecoveryKeyError> {
        let digits = text.strip_prefix("x25519:").filter(|digits| digits.bytes().all(|b| !b.is_ascii_uppercase()));
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits.ok_or(RecoveryKeyError)?, &mut bytes).map_err(|_| RecoveryKeyError)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for RecoveryKey {
    type Error = RecoveryKeyError;
    fn try_from(text: String) -> Result<Self, RecoveryKeyError> {
        text.parse()
    }
}

impl From<RecoveryKey> for String {
    fn from(key: RecoveryKey) -> Self {
        key.to_string()
    }
}

/// Which volume a key opens: the UUID in its LUKS2 header, 36 lower-case characters (RFC 9562, section 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(String);

/// A text that is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a volume must be named by a UUID in lower case, as `cryptsetup luksUUID` prints it")]
pub struct VolumeIdError;

impl VolumeId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VolumeId {
    type Err = VolumeIdError;
    fn from_str(text: &str) -> Result<Self, VolumeIdError> {
        let well_formed = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            });
        if well_formed { Ok(Self(text.to_owned())) } else { Err(VolumeIdError) }
    }
}

impl TryFrom<String> for VolumeId {
    type Error = VolumeIdError;
    fn try_from(text: String) -> Result<Self, VolumeIdError> {
        text.parse()
    }
}

impl From<VolumeId> for String {
    fn from(volume: VolumeId) -> Self {
        volume.0
    }
}

/// A recovery key as it leaves the device (`docs/formats/recovery.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedRecoveryKey {
    /// The format of the document.
    pub format: Format1,
    /// Whose private key opens it.
    pub recipient: RecoveryKey,
    /// The volume that the key opens.
    pub volume: VolumeId,
    /// What HPKE gave (RFC 9180, single-shot, base mode).
    pub sealed: Sealed,
}

/// Encapsulated key and ciphertext of [`SealedRecoveryKey::PASSPHRASE_BYTES`] bytes; its text form is lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sealed([u8; Sealed::BYTES]);

/// Bytes of another length than those of a sealed recovery key, or no hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed recovery key must be {} hexadecimal digits", 2 * Sealed::BYTES)]
pub struct SealedError;

impl Sealed {
    /// Of the encapsulated key (RFC 9180, 7.1: `Nenc`).
    pub const ENCAPSULATED: usize = 32;
    /// Of the AEAD's tag (RFC 9180, 7.3: `Nt`).
    const TAG: usize = 16;
    /// Of all of it.
    pub const BYTES: usize = Self::ENCAPSULATED + SealedRecoveryKey::PASSPHRASE_BYTES + Self::TAG;

    /// Puts both parts together.
    ///
    /// # Errors
    /// If they have other lengths than those of a sealed recovery key.
    pub fn new(encapsulated: &[u8], ciphertext: &[u8]) -> Result<Self, SealedError> {
        if encapsulated.len() != Self::ENCAPSULATED {
            return Err(SealedError);
        }
        [encapsulated, ciphertext].concat().try_into().map(Self).map_err(|_| SealedError)
    }

    /// The encapsulated key, and the ciphertext.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.0.split_at(Self::ENCAPSULATED)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl TryFrom<String> for Sealed {
    type Error = SealedError;
    fn try_from(text: String) -> Result<Self, SealedError> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| SealedError)?;
        Ok(Self(bytes))
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        hex::encode(sealed.0)
    }
}

/// Bytes that are no sealed recovery key of format 1.
#[derive(Debug, thiserror::Error)]
pub enum SealedRecoveryKeyError {
    /// Longer than any.
    #[error("a sealed recovery key has at most {} bytes", SealedRecoveryKey::MAX_BYTES)]
    TooLong,
    /// Not of the form.
    #[error("not a sealed recovery key of format 1")]
    Malformed(#[source] serde_json::Error),
}

impl SealedRecoveryKey {
    /// Upper bound for the JSON text in bytes.
    pub const MAX_BYTES: usize = 1024;
    /// What is sealed: 32 random bytes as hexadecimal digits, which a file and a person can both give to `cryptsetup`.
    pub const PASSPHRASE_BYTES: usize = 64;
    /// The `info` of HPKE: what the key is for.
    pub const PURPOSE: &[u8] = b"mbl recovery key of a state, format 1";

    /// Reads the JSON text.
    ///
    /// # Errors
    /// If it is not of format 1.
    pub fn parse(text: &[u8]) -> Result<Self, SealedRecoveryKeyError> {
        if text.len() > Self::MAX_BYTES {
            return Err(SealedRecoveryKeyError::TooLong);
        }
        serde_json::from_slice(text).map_err(SealedRecoveryKeyError::Malformed)
    }

    /// The JSON text, on one line.
    pub fn to_json(&self) -> String {
        // Texts and a number in named fields always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VOLUME: &str = "7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c11";

    fn key() -> SealedRecoveryKey {
        SealedRecoveryKey {
            format: Format1,
            recipient: RecoveryKey::from_bytes([0xab; 32]),
            volume: VOLUME.parse().unwrap(),
            sealed: Sealed::new(&[1; 32], &[2; 80]).unwrap(),
        }
    }

    #[test]
    fn the_text_of_format_1_does_not_move() {
        let text = key().to_json();
        let expected = format!(
            r#"{{"format":1,"recipient":"x25519:{}","volume":"{VOLUME}","sealed":"{}{}"}}"#,
            "ab".repeat(32),
            "01".repeat(32),
            "02".repeat(80)
        );
        assert_eq!(text, expected);
        assert_eq!(SealedRecoveryKey::parse(text.as_bytes()).unwrap(), key());
    }

    #[test]
    fn texts_of_another_form_are_refused() {
        let text = key().to_json();
        for (from, to) in [
            ("\"format\":1", "\"format\":2"),
            ("x25519:ab", "x25519:AB"),
            ("x25519:ab", "x25519:"),
            ("7a4d3c60-", "7A4D3C60-"),
            ("7a4d3c60-", "7a4d3c600"),
            ("\"sealed\":\"01", "\"sealed\":\""),
            ("{\"format\"", "{\"more\":1,\"format\""),
        ] {
            assert!(text.contains(from));
            assert!(SealedRecoveryKey::parse(text.replace(from, to).as_bytes()).is_err(), "{from} as {to}");
        }
        assert!(Sealed::new(&[1; 31], &[2; 81]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            drop(SealedRecoveryKey::parse(&bytes));
        }
    }
}
