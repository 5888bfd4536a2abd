//! The time key: signs the present for devices whose clocks are lost. Each answer is bound to the asker's nonce.

use std::path::Path;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use data_encoding::BASE64;
use protocol_types::{SignedTime, UnixSeconds};
use rcgen::KeyPair;

use super::{AuthorityError, key_file};

/// Signs nonce-bound time.
pub struct TimeKey {
    key: EcdsaKeyPair,
    public_pem: String,
}

impl std::fmt::Debug for TimeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimeKey").finish_non_exhaustive()
    }
}

impl TimeKey {
    /// Reads the key in `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, AuthorityError> {
        let damaged = || AuthorityError::Damaged { path: path.to_owned(), expected: "an ECDSA P-256 key" };
        let key = match key_file::read(path)? {
            Some(text) => {
                let block = pem::parse(&text).map_err(|_| damaged())?;
                KeyPair::try_from(block.contents()).map_err(|_| damaged())?
            }
            None => {
                let made =
                    KeyPair::generate().map_err(|source| AuthorityError::Make { what: "the time key", source })?;
                key_file::write_private(path, &made.serialize_pem())?;
                made
            }
        };
        Ok(Self {
            public_pem: key.public_key_pem(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der())
                .map_err(|_| damaged())?,
        })
    }

    /// The public key as PEM, for factory documents.
    pub fn public_key_pem(&self) -> String {
        self.public_pem.clone()
    }

    /// The time, signed for whoever asked with `nonce` (docs/formats/device-wire.md).
    pub fn sign(&self, time: UnixSeconds, nonce: String) -> Result<SignedTime, AuthorityError> {
        let text = SignedTime::text(time, &nonce);
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| AuthorityError::Sign)?;
        Ok(SignedTime { time, nonce, signature: BASE64.encode(signature.as_ref()) })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_signed_time_verifies_for_its_own_nonce_only_and_across_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("time.pem");
        let told = TimeKey::open(&path).unwrap().sign(UnixSeconds(1_800_000_000), "00ff".to_owned()).unwrap();
        let signature = BASE64.decode(told.signature.as_bytes()).unwrap();
        let reopened = TimeKey::open(&path).unwrap();
        let spki = pem::parse(reopened.public_key_pem()).unwrap().into_contents();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki[spki.len() - 65..]);
        assert!(key.verify(b"mbl-time-v1\n1800000000\n00ff", &signature).is_ok());
        assert!(key.verify(b"mbl-time-v1\n1800000000\n00fe", &signature).is_err());
        assert!(key.verify(b"mbl-time-v1\n1800000001\n00ff", &signature).is_err());
    }
}
