//! The disk of the board `host`: a partitioned image file and folders of files. Never caches and never retries.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use device_disk::esp::read_full;
use protocol_types::{FirmwareRecord, Slot};
use rustix::fs::{Advice, fadvise};

use super::{
    Disk, FirmwareState, Folder, ImageError, Place, Room,
    folders::Folders,
    forget,
    gpt_image::{Extent, find_slots},
};

/// Storage of one device folder, as `docs/formats/host-board.md` lays it out.
#[derive(Debug)]
pub struct FileDisk {
    image: File,
    slots: [Extent; 2],
    folders: Folders,
    state: PathBuf,
}

/// A device folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk image is missing or damaged.
    #[error("cannot use the disk image of the device")]
    Image(#[from] ImageError),
    /// A folder is missing and cannot be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl FileDisk {
    /// Opens the storage in `device_dir`, making folders that are missing.
    ///
    /// # Errors
    /// If there is no disk image with both slots or a folder cannot be made.
    pub fn open(device_dir: &Path) -> Result<Self, OpenError> {
        let path = device_dir.join("disk.img");
        let image = OpenOptions::new().read(true).write(true).open(&path).map_err(|source| ImageError::Io {
            doing: "open",
            path: path.clone(),
            source,
        })?;
        let slots = find_slots(&path, &image)?;
        let folders = Folders::open(device_dir, &[Folder::Esp, Folder::State, Folder::Keys])
            .map_err(|(path, source)| OpenError::Folder { path, source })?;
        Ok(Self { image, slots, folders, state: device_dir.join("state") })
    }

    fn extent(&self, slot: Slot) -> Extent {
        let [a, b] = self.slots;
        match slot {
            Slot::A => a,
            Slot::B => b,
        }
    }
}

impl Disk for FileDisk {
    fn room(&self) -> Room {
        Room { root: self.extent(Slot::A).bytes, verity: None, firmware: None }
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<String>> {
        self.folders.list(folder)
    }

    fn size(&self, place: &Place) -> io::Result<Option<u64>> {
        match place {
            Place::Slot(slot) => Ok(Some(self.extent(*slot).bytes)),
            Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => Ok(None),
            Place::File(folder, name) => self.folders.size(*folder, name),
        }
    }

    fn read_at(&self, place: &Place, at: u64, into: &mut [u8]) -> io::Result<usize> {
        match place {
            Place::Slot(slot) => {
                let extent = self.extent(*slot);
                let room = usize::try_from(extent.bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(into.len());
                read_full(&self.image, extent.start + at, into.get_mut(..room).unwrap_or_default())
            }
            Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => Err(io::ErrorKind::NotFound.into()),
            Place::File(folder, name) => self.folders.read_at(*folder, name, at, into),
        }
    }

    fn write_at(&mut self, place: &Place, at: u64, bytes: &[u8]) -> io::Result<()> {
        match place {
            Place::Slot(slot) => {
                let extent = self.extent(*slot);
                let end = u64::try_from(bytes.len()).ok().and_then(|length| at.checked_add(length));
                if end.is_none_or(|end| end > extent.bytes) {
                    // The neighbour is the running system: nothing may ever reach it.
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "write beyond the end of the slot"));
                }
                self.image.write_all_at(bytes, extent.start + at)
            }
            Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => Err(no_such_place()),
            Place::File(folder, name) => self.folders.write_at(*folder, name, at, bytes),
        }
    }

    fn set_len(&mut self, place: &Place, bytes: u64) -> io::Result<()> {
        match place {
            Place::Slot(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a slot has a fixed length")),
            Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => Err(no_such_place()),
            Place::File(folder, name) => self.folders.set_len(*folder, name, bytes),
        }
    }

    fn sync(&mut self, place: &Place) -> io::Result<()> {
        match place {
            Place::Slot(slot) => {
                self.image.sync_data()?;
                let extent = self.extent(*slot);
                // A hint: where the file system does not take it, the read back may be answered from memory.
                fadvise(&self.image, extent.start, std::num::NonZeroU64::new(extent.bytes), Advice::DontNeed)?;
                Ok(())
            }
            Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => Err(no_such_place()),
            Place::File(folder, name) => self.folders.sync(*folder, name),
        }
    }

    fn rename(&mut self, folder: Folder, from: &str, to: &str) -> io::Result<()> {
        self.folders.rename(folder, from, to)
    }

    fn remove(&mut self, folder: Folder, name: &str) -> io::Result<()> {
        self.folders.remove(folder, name)
    }

    fn sync_folder(&mut self, folder: Folder) -> io::Result<()> {
        self.folders.sync_folder(folder)
    }

    fn firmware(&self) -> io::Result<Option<FirmwareState>> {
        Ok(None)
    }

    fn write_firmware_record(&mut self, _: &FirmwareRecord) -> io::Result<()> {
        Err(no_such_place())
    }

    fn forget_state(&mut self) -> io::Result<()> {
        forget::ask(&self.state)
    }
}

fn no_such_place() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this board has no place for a hash tree or firmware")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::create_image;

    fn disk(slot_bytes: u64) -> (tempfile::TempDir, FileDisk) {
        let dir = tempfile::tempdir().unwrap();
        create_image(&dir.path().join("disk.img"), slot_bytes).unwrap();
        let disk = FileDisk::open(dir.path()).unwrap();
        (dir, disk)
    }

    #[test]
    fn both_slots_hold_their_own_bytes_to_the_last_one() {
        let (dir, mut disk) = disk(64 * 4096);
        assert_eq!(disk.room().root, 64 * 4096);
        for (slot, byte) in [(Slot::A, 0xaa), (Slot::B, 0xbb)] {
            disk.write_at(&Place::Slot(slot), 0, &vec![byte; 64 * 4096]).unwrap();
            disk.sync(&Place::Slot(slot)).unwrap();
        }
        drop(disk);
        let disk = FileDisk::open(dir.path()).unwrap();
        for (slot, byte) in [(Slot::A, 0xaa), (Slot::B, 0xbb)] {
            let mut all = vec![0; 65 * 4096];
            assert_eq!(disk.read_at(&Place::Slot(slot), 0, &mut all).unwrap(), 64 * 4096);
            assert!(all[..64 * 4096].iter().all(|b| *b == byte));
        }
    }

    #[test]
    fn a_write_past_the_end_of_a_slot_reaches_nothing() {
        let (_dir, mut disk) = disk(4096);
        let before = fs::read(_dir.path().join("disk.img")).unwrap();
        assert!(disk.write_at(&Place::Slot(Slot::A), 4000, &[1; 97]).is_err());
        assert!(disk.write_at(&Place::Slot(Slot::A), u64::MAX, &[1]).is_err());
        assert_eq!(fs::read(_dir.path().join("disk.img")).unwrap(), before);
    }

    #[test]
    fn an_image_without_slots_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("disk.img"), vec![0; 1 << 20]).unwrap();
        assert!(matches!(FileDisk::open(dir.path()), Err(OpenError::Image(ImageError::Table { .. }))));
        assert!(matches!(create_image(&dir.path().join("x"), 4095), Err(ImageError::SlotSize(4095))));
    }

    #[test]
    fn a_file_is_replaced_renamed_and_removed() {
        let (_dir, mut disk) = disk(4096);
        let place = Place::file(Folder::State, "x.tmp");
        disk.write_at(&place, 0, b"hello").unwrap();
        disk.sync(&place).unwrap();
        disk.rename(Folder::State, "x.tmp", "x").unwrap();
        disk.sync_folder(Folder::State).unwrap();
        assert_eq!(disk.list(Folder::State).unwrap(), ["x"]);
        assert_eq!(disk.size(&place).unwrap(), None);
        disk.remove(Folder::State, "x").unwrap();
        disk.remove(Folder::State, "x").unwrap();
        assert!(disk.list(Folder::State).unwrap().is_empty());
    }
}
