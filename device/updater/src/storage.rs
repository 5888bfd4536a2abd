//! The durable writes of the updater: a slot, a boot entry, a state file, the record of the firmware. Never decides which, and never leaves one half done.
//!
//! A file is replaced by writing a temporary one, flushing it, renaming it over the old one and flushing the folder. A slot is
//! written in place, but only while no boot entry names it. A boot entry changes by one rename.

use std::io;

pub use device_disk::esp::STAGED;
use protocol_types::{
    FirmwareRecord, Reason, ReasonCode, Slot,
    boot::{BootEntry, Tries},
};

use crate::disk::{Disk, FirmwareState, Folder, Place, Room};

/// What the record of the firmware slots is called in messages.
const FIRMWARE_RECORD: &str = "the record of the firmware slots";

/// How the firmware is to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareChoice {
    /// From the slot that did not start, on trial.
    TryIdle,
    /// From the slot that started, for good.
    KeepBooted,
    /// From the slot that is not on trial.
    Return,
}

/// Storage that did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {on}")]
pub struct StorageError {
    doing: &'static str,
    on: String,
    source: io::Error,
}

impl StorageError {
    pub(crate) fn new(doing: &'static str, on: impl ToString, source: io::Error) -> Self {
        Self { doing, on: on.to_string(), source }
    }

    /// Maps an I/O error of doing something on a place.
    pub(crate) fn on(doing: &'static str, on: &Place) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(doing, on, source)
    }
}

impl From<&StorageError> for Reason {
    fn from(error: &StorageError) -> Self {
        let code = match error.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ReasonCode::NoRoom
            }
            io::ErrorKind::InvalidData => ReasonCode::StateDamaged,
            _ => ReasonCode::StorageFailed,
        };
        // A reason travels alone, so it takes its cause along.
        Self::new(code, format!("{error}: {}", error.source))
    }
}

/// Durable operations on top of a disk.
#[derive(Debug)]
pub struct Storage<D> {
    disk: D,
}

impl<D: Disk> Storage<D> {
    /// Storage on `disk`.
    pub const fn new(disk: D) -> Self {
        Self { disk }
    }

    /// How much each slot has room for.
    pub fn room(&self) -> Room {
        self.disk.room()
    }

    /// All boot entries; other files in the boot partition are not ours and are left alone.
    ///
    /// # Errors
    /// If the boot partition cannot be read.
    pub fn entries(&self) -> Result<Vec<BootEntry>, StorageError> {
        let names = self.disk.list(Folder::Esp).map_err(|e| StorageError::new("list", Folder::Esp, e))?;
        Ok(names.iter().filter_map(|name| BootEntry::parse(name).filter(|entry| entry.to_string() == *name)).collect())
    }

    /// The newest boot entry that leads to `slot`.
    ///
    /// # Errors
    /// If the boot partition cannot be read.
    pub fn newest_entry(&self, slot: Slot) -> Result<Option<BootEntry>, StorageError> {
        Ok(self.entries()?.into_iter().filter(|entry| entry.slot == slot).max_by_key(|entry| entry.generation))
    }

    /// The bytes of a file, or `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is longer than `limit` bytes.
    pub fn load(&self, folder: Folder, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StorageError> {
        let place = Place::file(folder, name);
        let Some(size) = self.disk.size(&place).map_err(StorageError::on("look at", &place))? else { return Ok(None) };
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= limit)
            .ok_or_else(|| StorageError::new("read", &place, io::ErrorKind::FileTooLarge.into()))?;
        let mut bytes = vec![0; size];
        let read = self.disk.read_at(&place, 0, &mut bytes).map_err(StorageError::on("read", &place))?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Replaces a file: after a power cut it holds either the old bytes or the new ones.
    ///
    /// # Errors
    /// If any step fails; the old bytes are then still in place.
    pub fn replace(&mut self, folder: Folder, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let temporary = format!("{name}.tmp");
        let place = Place::file(folder, &*temporary);
        // A left-over of an earlier cut may be longer; it must not shine through.
        self.disk.set_len(&place, 0).map_err(StorageError::on("empty", &place))?;
        self.disk.write_at(&place, 0, bytes).map_err(StorageError::on("write", &place))?;
        self.disk.sync(&place).map_err(StorageError::on("flush", &place))?;
        self.rename(folder, &temporary, name)
    }

    fn rename(&mut self, folder: Folder, from: &str, to: &str) -> Result<(), StorageError> {
        let place = Place::file(folder, to);
        self.disk.rename(folder, from, to).map_err(StorageError::on("rename a file to", &place))?;
        self.disk.sync_folder(folder).map_err(|e| StorageError::new("flush", folder, e))
    }

    /// Removes every entry of `slot` so that nothing boots what is about to be overwritten.
    ///
    /// # Errors
    /// If the boot partition cannot be changed.
    pub fn retire(&mut self, slot: Slot) -> Result<(), StorageError> {
        self.remove_where(Folder::Esp, |name| BootEntry::parse(name).is_some_and(|entry| entry.slot == slot))
    }

    /// Takes the tries off every entry of `slot`, so that nothing boots it, and nothing gives way to it.
    ///
    /// # Errors
    /// If the boot partition cannot be read or changed.
    pub fn forsake(&mut self, slot: Slot) -> Result<(), StorageError> {
        let may_boot = |entry: &BootEntry| entry.is_bootable() || entry.gave_way();
        for entry in self.entries()?.into_iter().filter(|entry| entry.slot == slot && may_boot(entry)) {
            self.exhaust(entry)?;
        }
        Ok(())
    }

    /// Takes the tries off an entry, so that nothing boots it.
    ///
    /// # Errors
    /// If the boot partition cannot be changed.
    pub fn exhaust(&mut self, entry: BootEntry) -> Result<(), StorageError> {
        let done = entry.tries.filter(|tries| *tries != Tries::GAVE_WAY).map_or(0, |tries| tries.done);
        self.recount(entry, Some(Tries { left: 0, done }))
    }

    /// Removes every file in `folder` whose name is `unwanted`.
    ///
    /// # Errors
    /// If the folder cannot be read or changed.
    pub fn remove_where(&mut self, folder: Folder, unwanted: impl Fn(&str) -> bool) -> Result<(), StorageError> {
        let names = self.disk.list(folder).map_err(|e| StorageError::new("list", folder, e))?;
        let mut removed = false;
        for name in names.iter().filter(|name| unwanted(name)) {
            let place = Place::file(folder, name);
            self.disk.remove(folder, name).map_err(StorageError::on("remove", &place))?;
            removed = true;
        }
        if removed {
            self.disk.sync_folder(folder).map_err(|e| StorageError::new("flush", folder, e))?;
        }
        Ok(())
    }

    /// Turns the staged file, whose bytes are on the medium, into `entry`: from now on the loader tries it.
    ///
    /// # Errors
    /// If the boot partition cannot be changed.
    pub fn arm(&mut self, entry: BootEntry) -> Result<(), StorageError> {
        self.rename(Folder::Esp, STAGED, &entry.to_string())
    }

    /// The slots for firmware, on a board that has them.
    ///
    /// # Errors
    /// If their record cannot be read.
    pub fn firmware(&self) -> Result<Option<FirmwareState>, StorageError> {
        self.disk.firmware().map_err(|e| StorageError::new("read", FIRMWARE_RECORD, e))
    }

    /// Lets the firmware start as chosen from the next start on, by one new record; nothing happens if it does already.
    ///
    /// # Errors
    /// If the record cannot be read or written; the one before then counts.
    pub fn choose_firmware(&mut self, choice: FirmwareChoice) -> Result<(), StorageError> {
        let Some(FirmwareState { booted, record }) = self.firmware()? else { return Ok(()) };
        let before = record.unwrap_or(FirmwareRecord::new(0, booted, false));
        let (active, on_trial) = match choice {
            FirmwareChoice::TryIdle => (booted, true),
            FirmwareChoice::KeepBooted => (booted, false),
            FirmwareChoice::Return => (before.active, false),
        };
        let next = FirmwareRecord::new(before.sequence.saturating_add(1), active, on_trial);
        let is_so = (before.active, before.on_trial) == (active, on_trial) && (!on_trial || before.tried == 0);
        if is_so && record.is_some() {
            return Ok(());
        }
        self.disk.write_firmware_record(&next).map_err(|e| StorageError::new("write", FIRMWARE_RECORD, e))
    }

    /// Changes the counter of an entry by one rename; nothing happens if the counter is as wanted.
    ///
    /// # Errors
    /// If the boot partition cannot be changed.
    pub fn recount(&mut self, entry: BootEntry, tries: Option<Tries>) -> Result<(), StorageError> {
        let wanted = BootEntry { tries, ..entry };
        if wanted == entry { Ok(()) } else { self.rename(Folder::Esp, &entry.to_string(), &wanted.to_string()) }
    }

    /// Reads from a place; fewer bytes than `into` holds only at its end or if there is no such file.
    ///
    /// # Errors
    /// If the medium cannot be read.
    pub fn read(&self, place: &Place, at: u64, into: &mut [u8]) -> Result<usize, StorageError> {
        match self.disk.read_at(place, at, into) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            other => other.map_err(StorageError::on("read", place)),
        }
    }

    /// Writes a piece of a slot or of the staged entry; it lasts only after [`Storage::flush`].
    ///
    /// # Errors
    /// If the medium refuses.
    pub fn write(&mut self, place: &Place, at: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.disk.write_at(place, at, bytes).map_err(StorageError::on("write", place))
    }

    /// Gives the staged entry its final length, so that its room is there before its bytes come; what lies in an extension is any bytes.
    ///
    /// # Errors
    /// If the medium refuses.
    pub fn cut_to(&mut self, place: &Place, bytes: u64) -> Result<(), StorageError> {
        self.disk.set_len(place, bytes).map_err(StorageError::on("cut", place))
    }

    /// Has the next boot make a new state instead of opening this one. The wish lasts when this returns; nothing is destroyed yet.
    ///
    /// # Errors
    /// If the wish cannot be left where the next boot looks; the state is then as it was.
    pub fn forget_state(&mut self) -> Result<(), StorageError> {
        self.disk.forget_state().map_err(|e| StorageError::new("ask for a new", "state", e))
    }

    /// Makes what was written to a place last.
    ///
    /// # Errors
    /// If the medium refuses.
    pub fn flush(&mut self, place: &Place) -> Result<(), StorageError> {
        self.disk.sync(place).map_err(StorageError::on("flush", place))
    }
}
