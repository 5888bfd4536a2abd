//! The account's recovery key: its private half opens what devices sealed to the public half in their factory documents (HPKE, RFC 9180;
//! X25519, HKDF-SHA256, ChaCha20-Poly1305). Never writes the private half in the clear, and never sends it anywhere.

use std::path::Path;

use anyhow::Context as _;
use pkcs8::{AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfo, der::Encode as _};
use protocol_types::recovery::{RecoveryKey, SealedRecoveryKey};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as HPKE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey},
};
use zeroize::Zeroizing;

use crate::{
    durable::{write, write_private},
    failure::{Exit, Failure},
    keys::sealed_key,
    secret::Secret,
};

/// In the folder of the account's keys: the private half, encrypted, and the public one.
const PRIVATE: &str = "recovery.pem";
const PUBLIC: &str = "recovery.pub";
/// id-X25519 (RFC 8410, section 3).
const X25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.110");
/// An OCTET STRING of 32 bytes, which is what PKCS#8 wraps the key into (RFC 8410, section 7).
const WRAPPED: [u8; 2] = [4, 32];

/// Makes a key pair in `folder`, where there must be none.
pub(crate) fn create(folder: &Path, secret: &Secret) -> anyhow::Result<RecoveryKey> {
    let private_at = folder.join(PRIVATE);
    if private_at.exists() {
        return Err(Failure::new(Exit::Failed, format!("there is a recovery key in {}", folder.display()))
            .hint("devices were given its public half: keep it, and make another one in another folder")
            .into());
    }
    let (public, private) = HPKE.generate_key_pair().context("cannot make a recovery key")?;
    let public = <[u8; 32]>::try_from(public.0.as_slice()).map(RecoveryKey::from_bytes).context("an odd public key")?;
    let wrapped = Zeroizing::new([WRAPPED.as_slice(), private.secret_bytes()].concat());
    let algorithm = AlgorithmIdentifierRef { oid: X25519, parameters: None };
    let der = PrivateKeyInfo::new(algorithm, &wrapped).to_der().map(Zeroizing::new).map_err(anyhow::Error::msg)?;
    write_private(&private_at, sealed_key::seal(&der, secret)?.as_bytes())?;
    // Last: with it devices get the key.
    write(&folder.join(PUBLIC), format!("{public}\n").as_bytes())?;
    Ok(public)
}

/// The public half in `folder`, if the account has one.
pub(crate) fn public(folder: &Path) -> anyhow::Result<Option<RecoveryKey>> {
    let path = folder.join(PUBLIC);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => {
            let text = read.with_context(|| format!("cannot read {}", path.display()))?;
            text.trim_end().parse().map(Some).with_context(|| format!("cannot use {}", path.display()))
        }
    }
}

/// Opens what a device sealed, with the private half in the file `private_at`.
pub(crate) fn open(sealed: &SealedRecoveryKey, private_at: &Path, secret: &Secret) -> anyhow::Result<Secret> {
    let der = sealed_key::unseal(private_at, secret)?;
    let not_ours = || format!("{} is not a recovery key", private_at.display());
    let key = PrivateKeyInfo::try_from(der.as_slice()).map_err(anyhow::Error::msg).with_context(not_ours)?;
    let private =
        key.private_key.strip_prefix(&WRAPPED).filter(|bytes| key.algorithm.oid == X25519 && bytes.len() == 32);
    let private = HpkePrivateKey::from(private.with_context(not_ours)?.to_vec());
    let (encapsulated, ciphertext) = sealed.sealed.parts();
    let volume = sealed.volume.as_str().as_bytes();
    let opened =
        HPKE.open(&EncapsulatedSecret(encapsulated.to_vec()), SealedRecoveryKey::PURPOSE, volume, ciphertext, &private);
    let Ok(passphrase) = opened.map(Zeroizing::new) else {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} does not open the recovery key of volume {}", private_at.display(), sealed.volume),
        )
        .hint(format!("it was sealed to {}", sealed.recipient))
        .into());
    };
    let text = std::str::from_utf8(&passphrase).context("what was sealed is no passphrase")?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use protocol_types::{boot_record::Format1, recovery::Sealed};
    use rustls::crypto::hpke::HpkePublicKey;

    use super::*;

    const VOLUME: &str = "7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c11";

    fn secret(text: &str) -> Secret {
        Zeroizing::new(text.to_owned())
    }

    fn sealed(recipient: RecoveryKey, passphrase: &str) -> SealedRecoveryKey {
        let key = HpkePublicKey(recipient.as_bytes().to_vec());
        let (encapsulated, ciphertext) =
            HPKE.seal(SealedRecoveryKey::PURPOSE, VOLUME.as_bytes(), passphrase.as_bytes(), &key).unwrap();
        let sealed = Sealed::new(&encapsulated.0, &ciphertext).unwrap();
        SealedRecoveryKey { format: Format1, recipient, volume: VOLUME.parse().unwrap(), sealed }
    }

    #[test]
    fn what_was_sealed_to_the_public_half_opens_with_the_private_one_alone() {
        let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let passphrase = "5".repeat(SealedRecoveryKey::PASSPHRASE_BYTES);
        assert_eq!(public(ours.path()).unwrap(), None);
        let made = create(ours.path(), &secret("correct horse")).unwrap();
        assert_eq!(public(ours.path()).unwrap(), Some(made));
        let sealed = sealed(made, &passphrase);
        let private_at = ours.path().join(PRIVATE);
        assert_eq!(*open(&sealed, &private_at, &secret("correct horse")).unwrap(), passphrase);
        assert!(open(&sealed, &private_at, &secret("wrong horse")).is_err());
        create(others.path(), &secret("correct horse")).unwrap();
        let refused = open(&sealed, &others.path().join(PRIVATE), &secret("correct horse")).unwrap_err();
        assert!(refused.to_string().contains("does not open the recovery key"), "{refused}");
        assert!(create(ours.path(), &secret("correct horse")).is_err(), "one that devices know is never replaced");
    }

    #[test]
    fn a_private_key_of_another_kind_is_told_from_one_that_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        let signing = protocol_release::signing::SigningKey::generate(protocol_release::signing::Algorithm::Ed25519);
        let pem = sealed_key::seal(signing.unwrap().to_pkcs8(), &secret("correct horse")).unwrap();
        std::fs::write(&path, pem).unwrap();
        let sealed = sealed(RecoveryKey::from_bytes([9; 32]), &"5".repeat(64));
        let refused = open(&sealed, &path, &secret("correct horse")).unwrap_err();
        assert!(refused.to_string().contains("is not a recovery key"), "{refused:#}");
    }
}
