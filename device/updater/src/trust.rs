//! The only store of trusted metadata on the device, and the floor. Never fetches; never forgets what was once trusted.

use std::path::{Path, PathBuf};

use protocol_release::workflow::{Clock, Device, TrustedState};
use protocol_time::TimeKey;
use protocol_types::{
    Digest, FactoryDocument, Reason, ReasonCode, SecurityVersion, SignedTime, UnixSeconds, factory::FactoryError,
};
use tracing::warn;

use crate::{
    disk::{Disk, Folder},
    key_store::{Hardware, HardwareError, KeyStore},
    storage::{Storage, StorageError},
};

/// The generation of this updater; a release may ask for a later one. It rises when the updater learns something that a release
/// can depend on.
pub const UPDATER_GENERATION: u32 = 2;

/// The factory document in a device's folder.
pub const FACTORY_DOCUMENT: &str = "factory/factory.json";
const TRUSTED: &str = "trusted.json";
/// Each of the eleven dozen files inside is at most 256 KiB; what is larger was not written by this program.
const MAX_TRUSTED_BYTES: usize = 64 * 1024 * 1024;

/// What this device trusts, and what it is.
#[derive(Debug)]
pub struct Trust {
    keys: KeyStore,
    state: TrustedState,
    device: Device,
    not_before: UnixSeconds,
    time_key: Option<TimeKey>,
}

impl Trust {
    /// Reads what is trusted; on a device that never updated, that is the root in the factory document.
    ///
    /// # Errors
    /// With [`ReasonCode::StateDamaged`] if what was stored cannot be read back: starting afresh would forget every rollback
    /// protection, so the device then installs nothing.
    pub fn load<D: Disk>(storage: &Storage<D>, mut keys: KeyStore, factory: &FactoryDocument) -> Result<Self, Reason> {
        let stored = storage.load(Folder::State, TRUSTED, MAX_TRUSTED_BYTES).map_err(|e| Reason::from(&e))?;
        let mut state = match stored {
            Some(bytes) => TrustedState::parse(&bytes).map_err(Reason::from)?,
            None => TrustedState::from_root(factory.tuf_root.as_bytes())?,
        };
        // The key store outlives a factory reset, and with it the floor.
        state.raise_floor(keys.floor(storage).map_err(|e| Reason::from(&e))?);
        let device = Device {
            board: factory.board.clone(),
            architecture: factory.architecture.clone(),
            updater: UPDATER_GENERATION,
            highest_floor: keys.highest_floor(),
        };
        // Releases do not depend on it, so a device without one goes by its own clock.
        let time_key = TimeKey::from_pem(&factory.time_key)
            .inspect_err(|e| warn!(cause = %e, "no signed time is believed without a time key"))
            .ok();
        Ok(Self { keys, state, device, not_before: factory.provisioned, time_key })
    }

    /// Whether the time key of the factory document has signed this time.
    pub fn has_signed(&self, told: &SignedTime) -> bool {
        self.time_key.as_ref().is_some_and(|key| key.has_signed(told))
    }

    /// Releases below this are refused.
    pub fn floor(&self) -> SecurityVersion {
        self.state.floor()
    }

    /// What is trusted now.
    pub const fn state(&self) -> &TrustedState {
        &self.state
    }

    /// What the device is.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// Where the floor is kept.
    pub const fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// The time of a check at `now`, never before the provisioning or `saved`.
    pub fn clock(&self, now: UnixSeconds, saved: UnixSeconds) -> Clock {
        Clock { now, not_before: self.not_before.max(saved) }
    }

    /// Takes over what a check has validated.
    ///
    /// # Errors
    /// If it cannot be made durable; what was trusted before then stays in force.
    pub fn advance<D: Disk>(&mut self, storage: &mut Storage<D>, state: TrustedState) -> Result<(), StorageError> {
        let bytes = state.to_bytes().map_err(|e| StorageError::new("write", TRUSTED, std::io::Error::other(e)))?;
        storage.replace(Folder::State, TRUSTED, &bytes)?;
        self.state = state;
        Ok(())
    }

    /// Refuses releases below `floor` from now on.
    ///
    /// # Errors
    /// If it cannot be made durable.
    pub fn raise_floor<D: Disk>(
        &mut self,
        storage: &mut Storage<D>,
        floor: SecurityVersion,
    ) -> Result<(), StorageError> {
        let mut state = self.state.clone();
        state.raise_floor(floor);
        self.keys.raise_floor(storage, state.floor())?;
        self.advance(storage, state)
    }
}

/// Reads the factory document of the device in `device_dir` and checks it against the digest in its key store.
///
/// # Errors
/// With [`ReasonCode::StateDamaged`]: the device then boots, but installs nothing.
pub fn factory_document<D: Disk>(
    storage: &Storage<D>,
    keys: &mut KeyStore,
    device_dir: &Path,
) -> Result<FactoryDocument, Reason> {
    let damaged = |text: String| Reason::new(ReasonCode::StateDamaged, text);
    let path = device_dir.join(FACTORY_DOCUMENT);
    let bytes = crate::files::read_at_most(&path, FactoryDocument::MAX_BYTES)
        .map_err(|e| damaged(format!("the factory document cannot be read: {e}")))?;
    match keys.factory_digest(storage).map_err(|e| Reason::from(&e))? {
        Some(digest) if digest == Digest::of(&bytes) => {}
        Some(_) => return Err(damaged("the factory document is not the one that the key store recorded".to_owned())),
        None => return Err(damaged("the key store records no digest of the factory document".to_owned())),
    }
    FactoryDocument::parse(&bytes).map_err(|e| damaged(e.to_string()))
}

/// A factory step that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RecordFactoryError {
    /// There is no factory document.
    #[error("cannot read {}", path.display())]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no factory document.
    #[error("{} is no factory document", path.display())]
    Malformed {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: FactoryError,
    },
    /// The key store did not take it.
    #[error("cannot record the digest of the factory document")]
    KeyStore(#[from] HardwareError),
}

/// Records the digest of the factory document in the key store, for good; the same document may be recorded again.
///
/// # Errors
/// If there is no such document, or the key store does not take it.
pub fn record_factory(device_dir: &Path, hardware: &Hardware) -> Result<Digest, RecordFactoryError> {
    let path = device_dir.join(FACTORY_DOCUMENT);
    let bytes = crate::files::read_at_most(&path, FactoryDocument::MAX_BYTES)
        .map_err(|source| RecordFactoryError::Read { path: path.clone(), source })?;
    FactoryDocument::parse(&bytes).map_err(|source| RecordFactoryError::Malformed { path, source })?;
    let digest = Digest::of(&bytes);
    hardware.record_factory(&digest)?;
    Ok(digest)
}
