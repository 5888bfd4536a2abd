//! Where a board keeps what outlives a factory reset and a replayed disk: the security floor and the digest of the factory
//! document. Never lowers the floor.

use std::{
    io,
    path::{Path, PathBuf},
};

use device_tee::TeeError;
use protocol_types::{
    Digest, SecurityVersion, signed_cmdline,
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
    /// Our trusted application in a TEE (`docs/decisions/0012-the-key-store-in-the-tee.md`).
    Tee(device_tee::KeyStore),
}

/// Key store hardware, by its device.
#[derive(Clone, Debug)]
pub enum Hardware {
    /// A TPM 2.0: its device, or the socket of one in software.
    Tpm(PathBuf),
    /// A TEE: the device of its driver.
    Tee(PathBuf),
}

/// Hardware that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// A TPM.
    #[error(transparent)]
    Tpm(#[from] AskError),
    /// A TEE.
    #[error(transparent)]
    Tee(#[from] TeeError),
}

impl Hardware {
    /// The hardware of a board, from the paths that its command line gave.
    pub fn of(tpm: &Path, tee: Option<&Path>) -> Self {
        tee.map_or_else(|| Self::Tpm(tpm.to_owned()), |tee| Self::Tee(tee.to_owned()))
    }

    /// Opens it.
    ///
    /// # Errors
    /// If there is none, or this user may not.
    pub fn open(&self) -> Result<KeyStore, HardwareError> {
        Ok(match self {
            Self::Tpm(device) => KeyStore::Tpm(Tpm::open(device)?),
            Self::Tee(device) => KeyStore::Tee(device_tee::KeyStore::open(device)?),
        })
    }

    /// Records the digest of the factory document in it, for good; the same one may be recorded again.
    ///
    /// # Errors
    /// If it cannot be used, or holds the digest of another document.
    pub fn record_factory(&self, digest: &Digest) -> Result<(), HardwareError> {
        match self {
            Self::Tpm(device) => Tpm::open(device)?.record_factory(digest)?,
            Self::Tee(device) => device_tee::KeyStore::open(device)?.record_factory(digest)?,
        }
        Ok(())
    }
}

impl KeyStore {
    /// What an image for the board of this key store says on its command line.
    pub const fn on_cmdline(&self) -> signed_cmdline::KeyStore {
        match self {
            Self::Files => signed_cmdline::KeyStore::None,
            Self::Tpm(_) => signed_cmdline::KeyStore::Tpm2,
            Self::Tee(_) => signed_cmdline::KeyStore::Tee,
        }
    }

    /// The highest floor that it can hold.
    pub const fn highest_floor(&self) -> SecurityVersion {
        match self {
            Self::Files | Self::Tee(_) => SecurityVersion(u32::MAX),
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
            Self::Tee(tee) => tee.floor().map_err(|e| asked_tee("read", "the floor in the key store", &e)),
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
            Self::Tee(tee) => tee.raise_floor(floor).map_err(|e| asked_tee("raise", "the floor in the key store", &e)),
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
            Self::Tee(tee) => tee.factory().map_err(|e| asked_tee("read", "the digest of the factory document", &e)),
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
    StorageError::new(doing, on, with_cause(kind, &error))
}

/// As [`asked`], for a TEE. What it stored is damaged for as long as it says so, and a device without its record is not this one.
fn asked_tee(doing: &'static str, on: &str, error: &TeeError) -> StorageError {
    let kind = match error {
        TeeError::Driver { source, .. } => source.kind(),
        TeeError::NoRecord | TeeError::Recorded => io::ErrorKind::InvalidData,
        TeeError::Refused { code, .. } if code.is_damage() => io::ErrorKind::InvalidData,
        TeeError::Refused { .. } | TeeError::Malformed(_) => io::ErrorKind::Other,
    };
    StorageError::new(doing, on, with_cause(kind, error))
}

fn with_cause(kind: io::ErrorKind, error: &dyn std::error::Error) -> io::Error {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    io::Error::new(kind, format!("{error}{cause}"))
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
    fn a_damaged_or_lost_record_in_a_tee_is_damaged_state_and_a_silent_tee_is_not() {
        use device_tee::message::Code;
        use protocol_types::{Reason, ReasonCode};

        let refused = |code| TeeError::Refused { what: "tell the floor", code };
        let code = |error: &TeeError| Reason::from(&asked_tee("read", "the floor in the key store", error)).code;
        for error in [TeeError::NoRecord, refused(Code::CORRUPT_OBJECT), refused(Code::SECURITY)] {
            assert_eq!(code(&error), ReasonCode::StateDamaged, "{error}");
        }
        for error in [refused(Code::COMMUNICATION), refused(Code::TARGET_DEAD)] {
            assert_ne!(code(&error), ReasonCode::StateDamaged, "{error}");
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
