//! Writes that a power cut leaves either undone or done: temporary file, fsync, rename, fsync of the folder.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use super::StoreError;

/// The ending of files that are not finished; whoever opens a folder removes them.
pub(super) const TEMPORARY: &str = ".tmp";

/// Replaces the file `name` in `dir`.
pub(super) fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = dir.join(format!("{name}{TEMPORARY}"));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(source) = written {
        // The next start removes what this cannot.
        let _ignored = fs::remove_file(&temporary);
        return Err(StoreError::Io { what: "write", path: temporary, source });
    }
    rename(&temporary, &dir.join(name), dir)
}

/// Gives `from` its final name `to` in the folder `dir`.
pub(super) fn rename(from: &Path, to: &Path, dir: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("rename to", to))?;
    sync_folder(dir)
}

/// Makes the names in `dir` durable.
pub(super) fn sync_folder(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("synchronise", dir))
}

/// Makes the folder and those above it.
pub(super) fn folder(dir: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::io("make the folder", dir))
}

/// The names in `dir`.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let listed = || -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    listed().map_err(StoreError::io("list", dir))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Io { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Removes a folder with all that is in it; follows no symbolic link.
pub(super) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Io { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Bytes that may still be written to the file system of `dir`, and all that it has.
fn room(dir: &Path) -> Result<(u64, u64), StoreError> {
    let stat = rustix::fs::statvfs(dir).map_err(|errno| StoreError::io("look at", dir)(errno.into()))?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// What is left to others on the disk: 32 MiB, of a small one a sixteenth.
const RESERVE: u64 = 32 << 20;

/// Refuses early what cannot fit.
pub(super) fn need(dir: &Path, needed: u64) -> Result<(), StoreError> {
    let (free, whole) = room(dir)?;
    let room = free.saturating_sub(RESERVE.min(whole / 16));
    if room < needed { Err(StoreError::NoRoom { needed, room }) } else { Ok(()) }
}
