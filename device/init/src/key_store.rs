//! The board's key store, whichever kind it is: opened before the state, told when the initrd is left. Never decides what a floor means.

use std::{io, path::Path, time::Duration};

use device_disk::places::Places;
use device_tee::TeeError;
use protocol_types::{Digest, SecurityVersion, luks::Header, partitions::Layout, signed_cmdline};

use crate::{
    announcements::Announcements,
    state::{self, StateError},
    tee::{self, Tee, TeeStoreError},
    tpm::{AskError, Phase, TPM_DEVICE, Tpm},
};

/// How long its device may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// A key store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// Its device did not appear.
    #[error("no {device} appeared within {} seconds, and the board keeps its floor there", APPEARS_WITHIN.as_secs())]
    Absent {
        /// The device.
        device: &'static str,
    },
    /// It could not be waited for.
    #[error("cannot wait for {device}")]
    Wait {
        /// The device.
        device: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be told whether the device is new.
    #[error("cannot tell whether this device is new")]
    State(#[from] StateError),
    /// As before, for the factory's data.
    #[error("cannot read the factory partition")]
    Factory(#[source] io::Error),
    /// A TPM did not do what was asked.
    #[error(transparent)]
    Tpm(#[from] AskError),
    /// A TEE cannot be used.
    #[error(transparent)]
    Store(#[from] TeeStoreError),
    /// A TEE did not do what was asked.
    #[error(transparent)]
    Tee(#[from] TeeError),
}

/// An open key store.
#[derive(Debug)]
pub enum KeyStore {
    /// The board has none: no floor is enforced and no state is kept.
    None,
    /// A TPM 2.0.
    Tpm(Tpm),
    /// Our trusted application in a TEE.
    Tee(Tee),
}

impl KeyStore {
    /// Opens the key store that the signed command line names.
    ///
    /// # Errors
    /// If it is not there or cannot be used.
    pub fn open(
        kind: signed_cmdline::KeyStore,
        announced: &Announcements,
        places: &Places,
        layout: &Layout,
    ) -> Result<Self, KeyStoreError> {
        match kind {
            signed_cmdline::KeyStore::None => Ok(Self::None),
            signed_cmdline::KeyStore::Tpm2 => {
                wait_for(announced, TPM_DEVICE)?;
                Ok(Self::Tpm(Tpm::open(Path::new(TPM_DEVICE))?))
            }
            signed_cmdline::KeyStore::Tee => {
                let partition = layout.tee().ok_or_else(|| TeeStoreError::NoPartition(layout.disk.clone()))?;
                wait_for(announced, device_tee::DEVICE)?;
                wait_for(announced, tee::SUPPLICANT_DEVICE)?;
                let state: Header = state::examine(&places.node(layout.state()))?;
                let new = tee::is_new(state, &places.node(layout.factory())).map_err(KeyStoreError::Factory)?;
                Ok(Self::Tee(Tee::open(&places.node(partition), new)?))
            }
        }
    }

    /// The floor.
    ///
    /// # Errors
    /// If it does not tell.
    pub fn floor(&mut self) -> Result<SecurityVersion, KeyStoreError> {
        match self {
            Self::None => Ok(SecurityVersion(0)),
            Self::Tpm(tpm) => Ok(tpm.floor()?),
            Self::Tee(tee) => Ok(tee.floor()),
        }
    }

    /// The digest of this device's factory document; none before the factory step has ended.
    ///
    /// # Errors
    /// If it does not tell.
    pub fn factory_digest(&mut self) -> Result<Option<Digest>, KeyStoreError> {
        match self {
            Self::None => Ok(None),
            Self::Tpm(tpm) => Ok(tpm.factory_digest()?),
            Self::Tee(tee) => Ok(tee.factory_digest()?),
        }
    }

    /// Before the state is unlocked.
    ///
    /// # Errors
    /// If it does not note it.
    pub fn enter(&mut self) -> Result<(), KeyStoreError> {
        match self {
            Self::Tpm(tpm) => Ok(tpm.measure(Phase::EnterInitrd)?),
            Self::None | Self::Tee(_) => Ok(()),
        }
    }

    /// Before the system is started: from here on it does not give the state's key again before the next boot.
    ///
    /// # Errors
    /// If it does not note it.
    pub fn leave(self) -> Result<(), KeyStoreError> {
        match self {
            Self::None => Ok(()),
            Self::Tpm(mut tpm) => Ok(tpm.measure(Phase::LeaveInitrd)?),
            Self::Tee(tee) => Ok(tee.leave_initrd()?),
        }
    }
}

fn wait_for(announced: &Announcements, device: &'static str) -> Result<(), KeyStoreError> {
    let there = announced.until(APPEARS_WITHIN, || Ok(Path::new(device).exists().then_some(())));
    there.map_err(|source| KeyStoreError::Wait { device, source })?.ok_or(KeyStoreError::Absent { device })
}
