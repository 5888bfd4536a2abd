//! Keys for a developer's own verified boot: root of trust, platform, exchange and signature database, and the one that signs TPM
//! policies. A product keeps its keys elsewhere; what matters is that they are not these.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize,
};

use super::error::{ImageError, file};

/// The keys of Secure Boot, each with a certificate: firmware knows RSA with 2048 bits everywhere.
pub(super) const SECURE_BOOT: [&str; 3] = ["PK", "KEK", "db"];
/// The key that the boot ROM of firmware from source trusts.
pub(super) const ROOT_OF_TRUST: &str = "rot";
/// The key of the policies that say with which measurements the TPM gives the state's key.
pub(super) const POLICY: &str = "pcr";

/// Makes all keys in `folder`, which must not hold any.
pub fn init(folder: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(folder).map_err(file("make", folder))?;
    for name in SECURE_BOOT {
        let key = make(name)?;
        let failed = |source| ImageError::Key { name, source };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("mbl development {name}"));
        let certificate = params.self_signed(&key).map_err(failed)?;
        write(&folder.join(name).with_extension("key"), &key.serialize_pem(), 0o600)?;
        write(&folder.join(name).with_extension("pem"), &certificate.pem(), 0o644)?;
    }
    // P-256: Trusted Firmware-A takes less memory for it than for RSA.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|source| ImageError::Key { name: ROOT_OF_TRUST, source })?;
    write(&folder.join(ROOT_OF_TRUST).with_extension("key"), &key.serialize_pem(), 0o600)?;
    let key = make(POLICY)?;
    write(&folder.join(POLICY).with_extension("key"), &key.serialize_pem(), 0o600)?;
    write(&folder.join(POLICY).with_extension("pub"), &key.public_key_pem(), 0o644)
}

fn make(name: &'static str) -> Result<KeyPair, ImageError> {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(|source| ImageError::Key { name, source })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), ImageError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut to = match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(ImageError::KeyExists(path.to_owned()));
        }
        made => made.map_err(file("make", path))?,
    };
    to.write_all(text.as_bytes()).and_then(|()| to.sync_all()).map_err(file("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path()).unwrap();
        for name in ["PK.key", "KEK.key", "db.key", "pcr.key", "rot.key"] {
            assert_eq!(fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert!(fs::read_to_string(dir.path().join("pcr.pub")).unwrap().starts_with("-----BEGIN PUBLIC KEY-----"));
        let error = init(dir.path()).unwrap_err().to_string();
        assert!(error.contains("PK.key exists"), "{error}");
    }
}
