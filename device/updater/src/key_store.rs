//! Where a board keeps what outlives a factory reset and a replayed disk: the security floor and the digest of the factory
//! document. Never lowers the floor.

use std::io;

use protocol_types::{
    Digest, SecurityVersion,
    tpm::{HIGHEST_FLOOR, TpmError},
};

use crate::{
    disk::{Disk, Folder},
    storage::{Storage, StorageError},
    tpm::{AskError, Tpm},
};

const FLOOR: &str = "floor";
const FACTORY: &str = "factory.sha256";

/// The key store of a board.
#[derive(Debug)]
pub enum KeyStore {
    /// Files in the folder `keys`, on the board `host`: they stand for hardware that the board does not have.
    Files,
    /// A TPM 2.0 (`docs/decisions/0006-the-floor-in-the-tpm.md`).
    Tpm(Tpm),
}

impl KeyStore {
    /// The highest floor that it can hold.
    pub const fn highest_floor(&self) -> SecurityVersion {
        match self {
            Self::Files => SecurityVersion(u32::MAX),
            Self::Tpm(_) => HIGHEST_FLOOR,
        }
    }

    /// The floor; 0 if it was never raised.
    ///
    /// # Errors
    /// If it cannot be read, or what is there is no floor.
    pub fn floor<D: Disk>(&mut self, storage: &Storage<D>) -> Result<SecurityVersion, StorageError> {
        match self {
            Self::Files => {
                let Some(bytes) = storage.load(Folder::Keys, FLOOR, 64)? else { return Ok(SecurityVersion(0)) };
                let floor = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
                floor.map(SecurityVersion).ok_or_else(|| {
                    let why = io::Error::new(io::ErrorKind::InvalidData, "it is no number");
                    StorageError::new("understand", "the floor in the key store", why)
                })
            }
            Self::Tpm(tpm) => tpm.floor().map_err(|e| asked("read", "the floor in the key store", e)),
        }
    }

    /// Raises the floor; one that is already as high stays.
    ///
    /// # Errors
    /// If it cannot be made durable.
    pub fn raise_floor<D: Disk>(
        &mut self,
        storage: &mut Storage<D>,
        floor: SecurityVersion,
    ) -> Result<(), StorageError> {
        match self {
            Self::Files => {
                if self.floor(storage)? >= floor {
                    return Ok(());
                }
                storage.replace(Folder::Keys, FLOOR, format!("{floor}\n").as_bytes())
            }
            Self::Tpm(tpm) => tpm.raise_floor(floor).map_err(|e| asked("raise", "the floor in the key store", e)),
        }
    }

    /// The digest that the factory step recorded; none if it did not, or left something else.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn factory_digest<D: Disk>(&mut self, storage: &Storage<D>) -> Result<Option<Digest>, StorageError> {
        match self {
            Self::Files => {
                let text = storage.load(Folder::Keys, FACTORY, 256)?;
                Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.trim_end().parse().ok()))
            }
            Self::Tpm(tpm) => tpm.factory().map_err(|e| asked("read", "the digest of the factory document", e)),
        }
    }
}

/// A TPM's refusal as one of storage. An index that could be lowered or rewritten is no key store of this device.
fn asked(doing: &'static str, on: &str, error: AskError) -> StorageError {
    let kind = match &error {
        AskError::Speak { source, .. } => source.kind(),
        AskError::Answer { source: TpmError::Foreign { .. }, .. } | AskError::Recorded(_) => io::ErrorKind::InvalidData,
        AskError::Answer { .. } => io::ErrorKind::Other,
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    StorageError::new(doing, on, io::Error::new(kind, format!("{error}{cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faulty::FaultyDisk;

    #[test]
    fn a_floor_in_a_file_only_rises() {
        let mut storage = Storage::new(FaultyDisk::new(4096));
        let mut keys = KeyStore::Files;
        assert_eq!(keys.floor(&storage).unwrap(), SecurityVersion(0));
        for (raised, floor) in [(3, 3), (2, 3), (3, 3), (4, 4)] {
            keys.raise_floor(&mut storage, SecurityVersion(raised)).unwrap();
            assert_eq!(keys.floor(&storage).unwrap(), SecurityVersion(floor));
        }
    }

    #[test]
    fn a_file_that_holds_no_floor_is_not_a_floor_of_zero() {
        let mut storage = Storage::new(FaultyDisk::new(4096));
        storage.replace(Folder::Keys, FLOOR, b"many\n").unwrap();
        let error = KeyStore::Files.floor(&storage).unwrap_err();
        assert_eq!(protocol_types::Reason::from(&error).code, protocol_types::ReasonCode::StateDamaged);
        assert!(KeyStore::Files.raise_floor(&mut storage, SecurityVersion(1)).is_err());
    }
}
