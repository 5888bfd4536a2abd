//! The sealing key: what lies in the database and must not be read there is encrypted with it (AES-256-GCM). A copy of the database alone
//! opens nothing.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::{AuthorityError, key_file};

/// Encrypts and decrypts.
pub struct SealingKey(LessSafeKey);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingKey").finish_non_exhaustive()
    }
}

/// A text that this key has not sealed for this use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed text cannot be opened with the sealing key of this service")]
pub struct NotSealedHere;

/// A longer text is none of ours.
const MAX_SEALED: usize = 4096;

impl SealingKey {
    /// Reads the key in `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, AuthorityError> {
        let damaged = || AuthorityError::Damaged { path: path.to_owned(), expected: "a key of 64 hexadecimal digits" };
        let mut key = Zeroizing::new([0_u8; 32]);
        match key_file::read(path)?.map(Zeroizing::new) {
            Some(text) => hex::decode_to_slice(text.trim_end(), &mut *key).map_err(|_| damaged())?,
            None => {
                getrandom::fill(&mut *key).map_err(AuthorityError::Random)?;
                key_file::write_private(path, &Zeroizing::new(format!("{}\n", hex::encode(*key))))?;
            }
        }
        Ok(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| damaged())?)))
    }

    /// Encrypts `secret` for one use; only the same `purpose` opens it again.
    pub(crate) fn seal(&self, purpose: &str, secret: &[u8]) -> Result<String, AuthorityError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(AuthorityError::Random)?;
        let mut text = secret.to_vec();
        let aad = Aad::from(purpose.as_bytes());
        let sealed = self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text);
        sealed.map_err(|_| AuthorityError::Seal)?;
        Ok(BASE64URL_NOPAD.encode(&[nonce.as_slice(), &text].concat()))
    }

    /// Decrypts what [`SealingKey::seal`] has made for the same purpose.
    pub(crate) fn unseal(&self, purpose: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, NotSealedHere> {
        if sealed.len() > MAX_SEALED {
            return Err(NotSealedHere);
        }
        let bytes = BASE64URL_NOPAD.decode(sealed.as_bytes()).map_err(|_| NotSealedHere)?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(NotSealedHere)?;
        let mut text = Zeroizing::new(text.to_vec());
        let aad = Aad::from(purpose.as_bytes());
        let length = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text)
            .map_err(|_| NotSealedHere)?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_sealed_opens_after_a_restart_for_its_purpose_alone_and_with_no_other_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let sealed = SealingKey::open(&path).unwrap().seal("totp acme/anna", b"secret").unwrap();
        let again = SealingKey::open(&path).unwrap();
        assert_eq!(*again.unseal("totp acme/anna", &sealed).unwrap(), b"secret");
        assert_eq!(again.unseal("totp acme/bert", &sealed), Err(NotSealedHere));
        let other = SealingKey::open(&folder.path().join("other.key")).unwrap();
        assert_eq!(other.unseal("totp acme/anna", &sealed), Err(NotSealedHere));
        assert_ne!(again.seal("totp acme/anna", b"secret").unwrap(), sealed, "no nonce comes twice");
    }

    proptest! {
        #[test]
        fn nothing_else_opens(text in ".{0,200}") {
            let folder = tempfile::tempdir().unwrap();
            let key = SealingKey::open(&folder.path().join("sealing.key")).unwrap();
            prop_assert_eq!(key.unseal("totp", &text), Err(NotSealedHere));
        }
    }
}
