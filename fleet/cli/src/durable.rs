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

/// Finds out whether a private file can be written to `path`, before something is done whose outcome can only be kept there. Makes the
/// folder; a file that stands there stays as it is.
pub(crate) fn try_private(path: &Path) -> anyhow::Result<()> {
    let tried = || -> io::Result<()> {
        match fs::symlink_metadata(path) {
            // A folder, or a device as `/dev/stdout` is, would not become a file, or should not.
            Ok(there) if !there.is_file() => return Err(io::Error::other("what stands there is no plain file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
        fs::create_dir_all(folder_of(path))?;
        let beside = beside(path);
        remove(&beside)?;
        write_new(&beside, b"", 0o600)?;
        remove(&beside)
    };
    tried().with_context(|| format!("cannot write {}", path.display()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let replaced = || -> io::Result<()> {
        let folder = folder_of(path);
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

    #[test]
    fn a_place_is_tried_out_without_a_trace_and_one_for_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("codes");
        try_private(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
        fs::write(&path, "those of another account").unwrap();
        try_private(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"those of another account");
        let below = path.join("codes");
        for wrong in [folder.path(), Path::new("/dev/null"), Path::new("/dev/stdout"), below.as_path()] {
            assert!(try_private(wrong).is_err(), "{}", wrong.display());
        }
    }
}
