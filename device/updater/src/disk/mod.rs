//! The primitive operations that the updater and the loader perform on storage. Never decides what is written, or when.
//!
//! Files, block devices and the test disk that loses power implement the same trait, so that the order of writes, flushes and
//! renames that [`crate::storage`] composes is exactly the one that the power-cut sweep cuts into pieces.

mod devices;
mod files;
mod firmware;
mod folders;
pub mod forget;
mod gpt_image;
mod nor;

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod faulty_tests;

use std::{fmt, io};

pub use devices::{DeviceDisk, Devices, DevicesError};
pub use files::{FileDisk, OpenError};
pub use gpt_image::{ImageError, create_image};
use protocol_types::{FirmwareRecord, Slot};

/// A folder of small files, each replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Folder {
    /// The boot partition: one entry a slot.
    Esp,
    /// The updater's own state; wiped by a factory reset.
    State,
    /// The key store: what survives a factory reset.
    Keys,
}

/// Something that has bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The root partition of a slot.
    Slot(Slot),
    /// The hash tree partition of a slot.
    Verity(Slot),
    /// The slot of the firmware that started the system.
    BootedFirmware,
    /// The other slot for firmware.
    IdleFirmware,
    /// A file in a folder.
    File(Folder, String),
}

impl Place {
    /// A file called `name` in `folder`.
    pub fn file(folder: Folder, name: impl Into<String>) -> Self {
        Self::File(folder, name.into())
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Esp => "esp",
            Self::State => "state/updater",
            Self::Keys => "keys",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "slot {slot}"),
            Self::Verity(slot) => write!(f, "the hash tree of slot {slot}"),
            Self::BootedFirmware => f.write_str("the slot of the running firmware"),
            Self::IdleFirmware => f.write_str("the idle slot for firmware"),
            Self::File(folder, name) => write!(f, "{folder}/{name}"),
        }
    }
}

/// How many bytes of an image fit into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its root partition.
    pub root: u64,
    /// Its hash tree partition; none on a board without one.
    pub verity: Option<u64>,
    /// A slot for firmware; none on a board without them.
    pub firmware: Option<u64>,
}

/// The slots for firmware, as they are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareState {
    /// The slot that the running firmware came from, as it says itself.
    pub booted: Slot,
    /// The record that says which one starts, if there is a whole one.
    pub record: Option<FirmwareRecord>,
}

/// What storage can do. Only [`Disk::sync`] and [`Disk::sync_folder`] make anything last: until then a power cut may keep, lose or
/// tear each write, and keep or lose each change of a folder.
pub trait Disk {
    /// How much each slot has room for.
    fn room(&self) -> Room;
    /// Names of the files in `folder`, in no order; names that are not UTF-8 are left out.
    fn list(&self, folder: Folder) -> io::Result<Vec<String>>;
    /// Length of the file, or `None` if there is none.
    fn size(&self, place: &Place) -> io::Result<Option<u64>>;
    /// Reads from byte `at` on; fewer bytes than `into` holds only at the end.
    fn read_at(&self, place: &Place, at: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` from byte `at` on; makes the file if there is none.
    fn write_at(&mut self, place: &Place, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or extends a file to `bytes` bytes; makes it if there is none. What lies in an extension is any bytes.
    fn set_len(&mut self, place: &Place, bytes: u64) -> io::Result<()>;
    /// Makes the bytes last, and lets go of cached copies so that the next read asks the medium.
    fn sync(&mut self, place: &Place) -> io::Result<()>;
    /// Gives a file another name, replacing a file of that name.
    fn rename(&mut self, folder: Folder, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file, or where that is safer gives it a name that means nothing; it is no error if there is none.
    fn remove(&mut self, folder: Folder, name: &str) -> io::Result<()>;
    /// Makes names and removals in `folder` last.
    fn sync_folder(&mut self, folder: Folder) -> io::Result<()>;
    /// The slots for firmware, on a board that has them.
    fn firmware(&self) -> io::Result<Option<FirmwareState>>;
    /// Writes the record of the firmware slots, so that it lasts; until it is whole, the one before counts.
    fn write_firmware_record(&mut self, record: &FirmwareRecord) -> io::Result<()>;
    /// Leaves the wish for a new state where the next boot looks for it, and makes it last.
    fn forget_state(&mut self) -> io::Result<()>;
}
