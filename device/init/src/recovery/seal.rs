//! Makes a recovery key and seals it to an account: HPKE (RFC 9180) in base mode, with X25519, HKDF-SHA256 and ChaCha20-Poly1305. Never
//! opens what it sealed.

use std::io;

use protocol_types::{
    boot_record::Format1,
    recovery::{RecoveryKey, Sealed, SealedRecoveryKey, VolumeId},
};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as HPKE,
    hpke::{Hpke as _, HpkePublicKey},
};
use zeroize::Zeroizing;

use crate::key_file::random;

/// Twice as many hexadecimal digits are the passphrase.
const RANDOM_BYTES: usize = SealedRecoveryKey::PASSPHRASE_BYTES / 2;

/// A new passphrase.
///
/// # Errors
/// If the kernel gives no random bytes.
pub(super) fn passphrase() -> io::Result<Zeroizing<[u8; SealedRecoveryKey::PASSPHRASE_BYTES]>> {
    let bytes = random::<RANDOM_BYTES>()?;
    let mut text = Zeroizing::new([0; SealedRecoveryKey::PASSPHRASE_BYTES]);
    for (digits, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes.iter()) {
        *digits = [byte >> 4, byte & 0xf].map(|digit| digit + if digit < 10 { b'0' } else { b'a' - 10 });
    }
    Ok(text)
}

/// Seals it; none if the account's key is not one that anything can be sealed to.
pub(super) fn seal(
    recipient: RecoveryKey,
    volume: &VolumeId,
    passphrase: &[u8; SealedRecoveryKey::PASSPHRASE_BYTES],
) -> Option<SealedRecoveryKey> {
    let key = HpkePublicKey(recipient.as_bytes().to_vec());
    let sealed = HPKE.seal(SealedRecoveryKey::PURPOSE, volume.as_str().as_bytes(), passphrase, &key);
    let (encapsulated, ciphertext) = sealed.ok()?;
    let sealed = Sealed::new(&encapsulated.0, &ciphertext).ok()?;
    Some(SealedRecoveryKey { format: Format1, recipient, volume: volume.clone(), sealed })
}
