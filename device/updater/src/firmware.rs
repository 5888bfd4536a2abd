//! Which firmware started the system: the slot by its own word, the package by the bytes in that slot. Never believes a file that only says so.

use protocol_release::document::FirmwarePackage;
use protocol_types::{Digest, Hasher, RunningFirmware};

use crate::{
    disk::{Disk, FirmwareState, Place},
    plan::Firmware,
    storage::{Storage, StorageError},
};

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// The firmware that runs; `None` on a board without slots for it.
///
/// # Errors
/// If the flash cannot be read.
pub fn running<D: Disk>(storage: &Storage<D>) -> Result<Option<Firmware>, StorageError> {
    let Some(FirmwareState { booted, record }) = storage.firmware()? else { return Ok(None) };
    let digest = package(storage, &Place::BootedFirmware)?;
    let on_trial = record.filter(|record| record.on_trial).map(|record| record.active.other());
    Ok(Some(Firmware { running: RunningFirmware { slot: booted, digest }, on_trial }))
}

/// The digest of the package in `place`; `None` if there is none.
pub(crate) fn package<D: Disk>(storage: &Storage<D>, place: &Place) -> Result<Option<Digest>, StorageError> {
    let mut piece = vec![0; PIECE];
    let read = storage.read(place, 0, &mut piece)?;
    let head = piece.get(..read.min(FirmwarePackage::HEAD_BYTES)).unwrap_or_default();
    let Ok(FirmwarePackage { bytes }) = FirmwarePackage::parse(head) else { return Ok(None) };
    let (mut hasher, mut at) = (Hasher::new(), 0);
    while at < bytes {
        let wanted = usize::try_from(bytes - at).map_or(PIECE, |rest| rest.min(PIECE));
        let into = piece.get_mut(..wanted).unwrap_or_default();
        if storage.read(place, at, into)? != wanted {
            return Ok(None);
        }
        hasher.update(into);
        at += u64::try_from(wanted).unwrap_or(u64::MAX);
    }
    Ok(Some(hasher.finish()))
}
