//! A key store of files, where a board has neither TPM nor TEE. Whoever reads the folder has the key.

use std::path::{Path, PathBuf};

use protocol_types::Digest;
use zeroize::Zeroizing;

use super::{DeviceKey, KeyStoreError};
use crate::durable;

/// A folder with the device key and the recorded digest.
#[derive(Clone, Debug)]
pub struct FileStore {
    folder: PathBuf,
}

impl FileStore {
    /// The key store in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub(super) fn device_key(&self) -> Result<Option<DeviceKey>, KeyStoreError> {
        let Some(bytes) = durable::read(&self.key_path(), 4096)?.map(Zeroizing::new) else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        DeviceKey::from_pem(text).map(Some)
    }

    /// Makes the device key, durably and readable by its owner alone.
    pub(super) fn create_device_key(&self) -> Result<DeviceKey, KeyStoreError> {
        durable::make_folder(&self.folder, true)?;
        let (key, text) = DeviceKey::generate_with_pem()?;
        durable::replace(&self.key_path(), text.as_bytes(), 0o600)?;
        Ok(key)
    }

    pub(super) fn accepted_document(&self) -> Result<Option<Digest>, KeyStoreError> {
        let Some(bytes) = durable::read(&self.digest_path(), 256)? else { return Ok(None) };
        super::recorded_digest(&bytes).map(Some)
    }

    pub(super) fn accept_document(&self, digest: Digest) -> Result<(), KeyStoreError> {
        Ok(durable::replace(&self.digest_path(), format!("{digest}\n").as_bytes(), 0o600)?)
    }

    fn key_path(&self) -> PathBuf {
        self.folder.join("device-key.pem")
    }

    fn digest_path(&self) -> PathBuf {
        self.folder.join("factory.sha256")
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_stored_for_its_owner_alone_and_reads_back_as_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("keys"));
        assert!(store.device_key().unwrap().is_none());
        let born = store.create_device_key().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.key_path()), 0o600);
        assert_eq!(mode(store.folder()), 0o700);
        assert_eq!(store.device_key().unwrap().unwrap().public_key(), born.public_key());
    }

    #[test]
    fn a_damaged_key_or_digest_is_an_error_and_not_an_absence() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path());
        std::fs::write(store.key_path(), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        std::fs::write(store.digest_path(), "sha256:00").unwrap();
        assert!(matches!(store.device_key(), Err(KeyStoreError::Key(_))));
        assert!(matches!(store.accepted_document(), Err(KeyStoreError::Digest)));
    }
}
