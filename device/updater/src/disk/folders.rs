//! Folders of small files in a file system, under a device's folder. Never caches and never retries.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use device_disk::esp::read_full;
use rustix::fs::{Advice, fadvise};

use super::Folder;

/// The folders of one device.
#[derive(Debug)]
pub(super) struct Folders {
    device_dir: PathBuf,
}

impl Folders {
    /// Uses the folders below `device_dir`, making those of `needed` that are missing.
    pub(super) fn open(device_dir: &Path, needed: &[Folder]) -> Result<Self, (PathBuf, io::Error)> {
        let folders = Self { device_dir: device_dir.to_owned() };
        for folder in needed {
            let path = folders.folder(*folder);
            fs::create_dir_all(&path).map_err(|source| (path, source))?;
        }
        Ok(folders)
    }

    fn folder(&self, folder: Folder) -> PathBuf {
        self.device_dir.join(match folder {
            Folder::Esp => "esp",
            Folder::State => "state/updater",
            Folder::Keys => "keys",
        })
    }

    fn path(&self, folder: Folder, name: &str) -> PathBuf {
        self.folder(folder).join(name)
    }

    pub(super) fn list(&self, folder: Folder) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.folder(folder))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(super) fn size(&self, folder: Folder, name: &str) -> io::Result<Option<u64>> {
        match fs::symlink_metadata(self.path(folder, name)) {
            Ok(found) => Ok(Some(found.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn read_at(&self, folder: Folder, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        read_full(&File::open(self.path(folder, name))?, at, into)
    }

    /// Opens a file for changes, private to root: state and keys are nobody else's business.
    fn open_to_write(&self, folder: Folder, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path(folder, name))
    }

    pub(super) fn write_at(&self, folder: Folder, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.open_to_write(folder, name)?.write_all_at(bytes, at)
    }

    pub(super) fn set_len(&self, folder: Folder, name: &str, bytes: u64) -> io::Result<()> {
        self.open_to_write(folder, name)?.set_len(bytes)
    }

    pub(super) fn sync(&self, folder: Folder, name: &str) -> io::Result<()> {
        let file = File::open(self.path(folder, name))?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    pub(super) fn rename(&self, folder: Folder, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(folder, from), self.path(folder, to))
    }

    pub(super) fn remove(&self, folder: Folder, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(folder, name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn sync_folder(&self, folder: Folder) -> io::Result<()> {
        File::open(self.folder(folder))?.sync_all()
    }
}
