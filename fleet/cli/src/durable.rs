//! Files of a person that are either the old or the new one after a crash, never a part of one.
//! `docs/decisions/0007-durable-writes-by-hand.md` says why by hand.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Replaces `path` by a file that only its owner may read. Makes the folder.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    replace(path, bytes, 0o600)
}

/// Replaces `path` by a file that everybody may read whom the person's umask lets. Makes the folder.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    replace(path, bytes, 0o666)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let replaced = || -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let beside = beside(path);
        // A left-over of a crash may have other permissions; the new file must never pass through them.
        remove(&beside)?;
        if let Err(error) = write_new(&beside, bytes, mode).and_then(|()| fs::rename(&beside, path)) {
            // The old content still stands; the remainder is only in the way.
            drop(remove(&beside));
            return Err(error);
        }
        fs::File::open(folder)?.sync_all()
    };
    replaced().with_context(|| format!("cannot write {}", path.display()))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Hidden, and under one name for each file, so that the next write finds what a crash left.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_left_over_of_a_crash_is_replaced_and_its_permissions_are_not_inherited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        fs::write(&path, "old").unwrap();
        fs::write(beside(&path), "half a tok").unwrap();
        fs::set_permissions(beside(&path), fs::Permissions::from_mode(0o666)).unwrap();
        write_private(&path, b"whole token").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole token");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no remainder is left behind");
    }

    #[test]
    fn a_failed_replacement_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.root.json");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"new").is_err(), "a folder stands in the way");
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no remainder is left behind");
    }
}
