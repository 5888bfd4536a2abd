//! The disk of a real board: partitions as block devices, the boot partition without mounting it, the state as files. Never writes
//! a byte outside of the idle slot's partitions and the boot partition but for the label of the state, and never opens the running slot for writing.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use device_disk::{
    esp::{Esp, read_full},
    places::Places,
};
use protocol_release::document::FirmwarePackage;
use protocol_types::{Digest, FirmwareRecord, Slot, luks, partitions::Layout};
use rustix::fs::{Advice, fadvise};
use tracing::{info, warn};

use super::{Disk, FirmwareState, Folder, Place, Room, firmware::FirmwareSlots, folders::Folders};

/// Where the hardware of a board is found, and what changes it.
#[derive(Clone, Debug)]
pub struct Devices {
    /// Where the kernel shows its block devices.
    pub places: Places,
    /// The program that changes the header of the state.
    pub cryptsetup: PathBuf,
    /// The top of the system, in which the kernel shows what the firmware says and its flash.
    pub root: PathBuf,
}

impl Devices {
    /// In the system below `root`.
    pub fn below(root: &Path) -> Self {
        Self { places: Places::below(root), cryptsetup: root.join("usr/sbin/cryptsetup"), root: root.to_owned() }
    }
}

/// A board whose disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// A device or folder cannot be used.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No disk, or more than one, holds the system that runs.
    #[error("{found} disks have the partitions of this system and a slot {slot} with the root hash that was booted")]
    NotOneDisk {
        /// How many do.
        found: usize,
        /// The booted slot.
        slot: Slot,
    },
}

impl Devices {
    /// The one disk that holds the booted system, found as the initrd finds it.
    fn find(&self, slot: Slot, root_hash: Digest) -> Result<Layout, DevicesError> {
        let candidates = self.places.candidates().map_err(|source| {
            let path = self.places.class_block.clone();
            DevicesError::Io { doing: "list", path, source }
        })?;
        let booted = candidates.into_iter().filter(|candidate| candidate.root_hash(slot) == Some(root_hash));
        let mut found: Vec<Layout> = booted.map(|candidate| candidate.layout).collect();
        match (found.pop(), found.len()) {
            (Some(layout), 0) => Ok(layout),
            (None, _) => Err(DevicesError::NotOneDisk { found: 0, slot }),
            (Some(_), others) => Err(DevicesError::NotOneDisk { found: others + 1, slot }),
        }
    }
}

/// An open partition of a slot.
#[derive(Debug)]
struct Extent {
    file: File,
    bytes: u64,
}

/// Both partitions of a slot.
#[derive(Debug)]
struct SlotDevices {
    slot: Slot,
    root: Extent,
    verity: Extent,
}

/// Storage of a real board, as `docs/formats/board.md` lays it out.
#[derive(Debug)]
pub struct DeviceDisk {
    running: SlotDevices,
    idle: SlotDevices,
    firmware: Option<FirmwareSlots<File>>,
    esp: Esp,
    folders: Folders,
    state: PathBuf,
    cryptsetup: PathBuf,
}

impl DeviceDisk {
    /// Opens the disk that holds the booted system: slot `slot`, whose hash tree has the root hash `root_hash`. Files are kept below
    /// `device_dir`.
    ///
    /// # Errors
    /// If there is no such disk or more than one, or a part of it cannot be used.
    pub fn open(devices: &Devices, slot: Slot, root_hash: Digest, device_dir: &Path) -> Result<Self, DevicesError> {
        let layout = devices.find(slot, root_hash)?;
        let open = |device: &str, write: bool| {
            let path = devices.places.node(device);
            let opened = OpenOptions::new().read(true).write(write).open(&path);
            let file = opened.map_err(|source| DevicesError::Io { doing: "open", path: path.clone(), source })?;
            Ok((file, path))
        };
        let extent = |device: &str, write: bool| {
            let (mut file, path) = open(device, write)?;
            // The metadata of a block device has no length.
            let bytes = file.seek(SeekFrom::End(0));
            let bytes = bytes.map_err(|source| DevicesError::Io { doing: "find the end of", path, source })?;
            Ok(Extent { file, bytes })
        };
        let slot_devices = |slot, write| {
            Ok(SlotDevices {
                slot,
                root: extent(layout.root(slot), write)?,
                verity: extent(layout.verity(slot), write)?,
            })
        };
        let (file, path) = open(layout.esp(), true)?;
        let mut esp =
            Esp::new(file).map_err(|source| DevicesError::Io { doing: "use the boot partition", path, source })?;
        match esp.reclaim() {
            Ok(0) => {}
            Ok(clusters) => info!(clusters, "freed what a power cut had left taken on the boot partition"),
            Err(e) => warn!(cause = %e, "what a power cut may have left taken on the boot partition stays so"),
        }
        let folders = Folders::open(device_dir, &[Folder::State]).map_err(|(path, source)| DevicesError::Io {
            doing: "make the folder",
            path,
            source,
        })?;
        Ok(Self {
            running: slot_devices(slot, false)?,
            idle: slot_devices(slot.other(), true)?,
            firmware: FirmwareSlots::open(&devices.root),
            esp,
            folders,
            state: devices.places.node(layout.state()),
            cryptsetup: devices.cryptsetup.clone(),
        })
    }

    fn slot(&self, slot: Slot) -> &SlotDevices {
        if slot == self.idle.slot { &self.idle } else { &self.running }
    }

    /// The partition, if the place is one.
    fn extent(&self, place: &Place) -> Option<&Extent> {
        match place {
            Place::Slot(slot) => Some(&self.slot(*slot).root),
            Place::Verity(slot) => Some(&self.slot(*slot).verity),
            Place::BootedFirmware | Place::IdleFirmware | Place::File(..) => None,
        }
    }

    fn firmware_slots(&self) -> io::Result<&FirmwareSlots<File>> {
        let none = || io::Error::new(io::ErrorKind::Unsupported, "this board has no slots for firmware");
        self.firmware.as_ref().ok_or_else(none)
    }

    fn write_extent(&self, place: &Place, slot: Slot, at: u64, bytes: &[u8]) -> io::Result<()> {
        let refuse = |kind, why| Err(io::Error::new(kind, why));
        let Some(extent) = self.extent(place) else { return Err(io::ErrorKind::NotFound.into()) };
        if slot != self.idle.slot {
            return refuse(io::ErrorKind::PermissionDenied, "it is part of the running system");
        }
        let end = u64::try_from(bytes.len()).ok().and_then(|length| at.checked_add(length));
        if end.is_none_or(|end| end > extent.bytes) {
            return refuse(io::ErrorKind::InvalidInput, "write beyond the end of the partition");
        }
        extent.file.write_all_at(bytes, at)
    }
}

impl Disk for DeviceDisk {
    fn room(&self) -> Room {
        // An image that fits into one slot only could never be followed by the next one.
        let both = |a: &Extent, b: &Extent| a.bytes.min(b.bytes);
        let (running, idle) = (&self.running, &self.idle);
        Room {
            root: both(&running.root, &idle.root),
            verity: Some(both(&running.verity, &idle.verity)),
            firmware: self.firmware.as_ref().map(|_| FirmwarePackage::MAX_BYTES),
        }
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<String>> {
        match folder {
            Folder::Esp => self.esp.list(),
            Folder::State | Folder::Keys => self.folders.list(folder),
        }
    }

    fn size(&self, place: &Place) -> io::Result<Option<u64>> {
        match place {
            Place::Slot(_) | Place::Verity(_) => Ok(self.extent(place).map(|extent| extent.bytes)),
            Place::BootedFirmware | Place::IdleFirmware => {
                Ok(self.firmware.as_ref().map(|_| FirmwarePackage::MAX_BYTES))
            }
            Place::File(Folder::Esp, name) => self.esp.size(name),
            Place::File(folder, name) => self.folders.size(*folder, name),
        }
    }

    fn read_at(&self, place: &Place, at: u64, into: &mut [u8]) -> io::Result<usize> {
        match place {
            Place::Slot(_) | Place::Verity(_) => match self.extent(place) {
                Some(extent) => read_full(&extent.file, at, into),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Place::BootedFirmware | Place::IdleFirmware => {
                let firmware = self.firmware_slots()?;
                let booted = firmware.booted();
                firmware.read(if *place == Place::IdleFirmware { booted.other() } else { booted }, at, into)
            }
            Place::File(Folder::Esp, name) => self.esp.read_at(name, at, into),
            Place::File(folder, name) => self.folders.read_at(*folder, name, at, into),
        }
    }

    fn write_at(&mut self, place: &Place, at: u64, bytes: &[u8]) -> io::Result<()> {
        match place {
            Place::Slot(slot) | Place::Verity(slot) => self.write_extent(place, *slot, at, bytes),
            Place::BootedFirmware => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, "the firmware in it started the system"))
            }
            Place::IdleFirmware => self.firmware_slots()?.write(at, bytes),
            Place::File(Folder::Esp, name) => self.esp.write_at(name, at, bytes),
            Place::File(folder, name) => self.folders.write_at(*folder, name, at, bytes),
        }
    }

    fn set_len(&mut self, place: &Place, bytes: u64) -> io::Result<()> {
        match place {
            Place::Slot(_) | Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "a partition has a fixed length"))
            }
            Place::File(Folder::Esp, name) => self.esp.set_len(name, bytes),
            Place::File(folder, name) => self.folders.set_len(*folder, name, bytes),
        }
    }

    fn sync(&mut self, place: &Place) -> io::Result<()> {
        match place {
            Place::Slot(_) | Place::Verity(_) => {
                let Some(extent) = self.extent(place) else { return Err(io::ErrorKind::NotFound.into()) };
                extent.file.sync_data()?;
                Ok(fadvise(&extent.file, 0, None, Advice::DontNeed)?)
            }
            // Each write reached the chip, and each read asks it.
            Place::BootedFirmware | Place::IdleFirmware => Ok(()),
            Place::File(Folder::Esp, _) => self.esp.sync(),
            Place::File(folder, name) => self.folders.sync(*folder, name),
        }
    }

    fn rename(&mut self, folder: Folder, from: &str, to: &str) -> io::Result<()> {
        match folder {
            Folder::Esp => self.esp.rename(from, to),
            Folder::State | Folder::Keys => self.folders.rename(folder, from, to),
        }
    }

    fn remove(&mut self, folder: Folder, name: &str) -> io::Result<()> {
        match folder {
            Folder::Esp => self.esp.remove(name),
            Folder::State | Folder::Keys => self.folders.remove(folder, name),
        }
    }

    fn sync_folder(&mut self, folder: Folder) -> io::Result<()> {
        match folder {
            Folder::Esp => self.esp.sync(),
            Folder::State | Folder::Keys => self.folders.sync_folder(folder),
        }
    }

    fn firmware(&self) -> io::Result<Option<FirmwareState>> {
        let state = |slots: &FirmwareSlots<File>| Ok(FirmwareState { booted: slots.booted(), record: slots.record()? });
        self.firmware.as_ref().map(state).transpose()
    }

    fn write_firmware_record(&mut self, record: &FirmwareRecord) -> io::Result<()> {
        self.firmware_slots()?.write_record(record)
    }

    fn forget_state(&mut self) -> io::Result<()> {
        // Nobody else changes this header while the system runs, and the folder of the locks is not this process's.
        let words = ["config", "--disable-locks", "--label", luks::RESET];
        let ended = Command::new(&self.cryptsetup).args(words).arg(&self.state).stdin(Stdio::null()).status()?;
        if ended.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("{} config --label ended with {ended}", self.cryptsetup.display())))
        }
    }
}
