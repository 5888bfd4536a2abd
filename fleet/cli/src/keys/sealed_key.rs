//! Private keys at rest: PKCS#8 encrypted with a passphrase by PBES2 (RFC 8018) with scrypt and AES-256-CBC. Never writes one
//! in the clear.

use std::path::Path;

use anyhow::Context as _;
use pkcs8::{
    EncryptedPrivateKeyInfo, SecretDocument,
    der::{Encode as _, pem::LineEnding},
    pkcs5::{pbes2, scrypt},
};
use zeroize::Zeroizing;

use crate::{
    failure::{Exit, Failure},
    secret::Secret,
};

const LABEL: &str = "ENCRYPTED PRIVATE KEY";
/// N as a power of two, r, p: 16 MiB five times over a guess. OWASP's recommendation for this much memory; with more, `openssl`
/// would not read the key.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

/// The PEM text of the PKCS#8 key `der`, encrypted.
pub(crate) fn seal(der: &[u8], secret: &Secret) -> anyhow::Result<Zeroizing<String>> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    getrandom::fill(&mut salt).and_then(|()| getrandom::fill(&mut iv)).context("cannot get random bytes")?;
    let (log_n, r, p) = SCRYPT;
    let cost = scrypt::Params::new(log_n, r, p, 32).map_err(anyhow::Error::msg)?;
    let scheme = pbes2::Parameters::scrypt_aes256cbc(cost, &salt, &iv).map_err(anyhow::Error::msg)?;
    let encrypted = scheme.encrypt(secret.as_bytes(), der).map_err(anyhow::Error::msg)?;
    let info = EncryptedPrivateKeyInfo { encryption_algorithm: scheme.into(), encrypted_data: &encrypted };
    let document = SecretDocument::try_from(info.to_der().map_err(anyhow::Error::msg)?).map_err(anyhow::Error::msg)?;
    document.to_pem(LABEL, LineEnding::LF).map_err(anyhow::Error::msg)
}

/// The PKCS#8 key in the file `path`.
pub(crate) fn unseal(path: &Path, secret: &Secret) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let pem = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let not_a_key = || format!("{} is not an encrypted private key", path.display());
    let (label, document) = SecretDocument::from_pem(&pem).map_err(anyhow::Error::msg).with_context(not_a_key)?;
    anyhow::ensure!(label == LABEL, not_a_key());
    let key: EncryptedPrivateKeyInfo<'_> = document.decode_msg().map_err(anyhow::Error::msg).with_context(not_a_key)?;
    let Ok(plain) = key.decrypt(secret.as_bytes()) else {
        return Err(Failure::new(Exit::Failed, format!("the passphrase does not open {}", path.display()))
            .hint("name the right file with `--passphrase-file` or MBL_PASSPHRASE_FILE")
            .into());
    };
    Ok(Zeroizing::new(plain.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use protocol_release::signing::{Algorithm, SigningKey};

    use super::*;

    fn secret(text: &str) -> Secret {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn a_key_comes_back_with_its_passphrase_and_not_with_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
        std::fs::write(&path, seal(key.to_pkcs8(), &secret("correct horse")).unwrap()).unwrap();
        assert_eq!(unseal(&path, &secret("correct horse")).unwrap().as_slice(), key.to_pkcs8());
        let refused = unseal(&path, &secret("wrong horse")).unwrap_err();
        assert!(refused.to_string().starts_with("the passphrase does not open"), "{refused}");
    }

    #[test]
    fn a_key_in_the_clear_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let key = SigningKey::generate(Algorithm::Ed25519).unwrap();
        let plain = SecretDocument::try_from(key.to_pkcs8()).unwrap();
        std::fs::write(&path, plain.to_pem("PRIVATE KEY", LineEnding::LF).unwrap()).unwrap();
        assert!(unseal(&path, &secret("any")).is_err());
    }
}
