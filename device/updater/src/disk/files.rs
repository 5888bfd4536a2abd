//! The disk of the board `host`: a partitioned image file and folders of files. Never caches and never retries.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use protocol_types::Slot;
use rustix::fs::{Advice, fadvise};

use super::{
    Disk, Folder, ImageError, Place,
    gpt_image::{Extent, find_slots},
};

/// Storage of one device folder, as `docs/formats/host-board.md` lays it out.
#[derive(Debug)]
pub struct FileDisk {
    image: File,
    slots: [Extent; 2],
    folders: [PathBuf; 3],
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
        let folders = ["esp", "state/updater", "keys"].map(|name| device_dir.join(name));
        for path in &folders {
            fs::create_dir_all(path).map_err(|source| OpenError::Folder { path: path.clone(), source })?;
        }
        Ok(Self { image, slots, folders })
    }

    fn folder(&self, folder: Folder) -> &Path {
        let [esp, state, keys] = &self.folders;
        match folder {
            Folder::Esp => esp,
            Folder::State => state,
            Folder::Keys => keys,
        }
    }

    fn path(&self, folder: Folder, name: &str) -> PathBuf {
        self.folder(folder).join(name)
    }

    fn extent(&self, slot: Slot) -> Extent {
        let [a, b] = self.slots;
        match slot {
            Slot::A => a,
            Slot::B => b,
        }
    }

    /// Opens a file for changes, private to root: state and keys are nobody else's business.
    fn open_to_write(&self, folder: Folder, name: &str) -> io::Result<File> {
        use std::os::unix::fs::OpenOptionsExt as _;
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path(folder, name))
    }
}

impl Disk for FileDisk {
    fn slot_bytes(&self) -> u64 {
        self.extent(Slot::A).bytes
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.folder(folder))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn size(&self, place: &Place) -> io::Result<Option<u64>> {
        match place {
            Place::Slot(slot) => Ok(Some(self.extent(*slot).bytes)),
            Place::File(folder, name) => match fs::symlink_metadata(self.path(*folder, name)) {
                Ok(found) => Ok(Some(found.len())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
        }
    }

    fn read_at(&self, place: &Place, at: u64, into: &mut [u8]) -> io::Result<usize> {
        match place {
            Place::Slot(slot) => {
                let extent = self.extent(*slot);
                let room = usize::try_from(extent.bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(into.len());
                read_full(&self.image, extent.start + at, into.get_mut(..room).unwrap_or_default())
            }
            Place::File(folder, name) => read_full(&File::open(self.path(*folder, name))?, at, into),
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
            Place::File(folder, name) => self.open_to_write(*folder, name)?.write_all_at(bytes, at),
        }
    }

    fn set_len(&mut self, place: &Place, bytes: u64) -> io::Result<()> {
        match place {
            Place::Slot(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a slot has a fixed length")),
            Place::File(folder, name) => self.open_to_write(*folder, name)?.set_len(bytes),
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
            Place::File(folder, name) => {
                let file = File::open(self.path(*folder, name))?;
                file.sync_all()?;
                fadvise(&file, 0, None, Advice::DontNeed)?;
                Ok(())
            }
        }
    }

    fn rename(&mut self, folder: Folder, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(folder, from), self.path(folder, to))
    }

    fn remove(&mut self, folder: Folder, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(folder, name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync_folder(&mut self, folder: Folder) -> io::Result<()> {
        File::open(self.folder(folder))?.sync_all()
    }
}

/// Reads until `into` is full or the file ends.
fn read_full(file: &File, mut at: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(n) => {
                done += n;
                at += u64::try_from(n).map_err(io::Error::other)?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(disk.slot_bytes(), 64 * 4096);
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
