//! Writes small files so that a power cut leaves the old content or the new one, never a part. Never decides what to write.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::Serialize;

/// A file that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct DurableError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DurableError {
    /// Whether the disk is full, so that a caller may say so.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Replaces `path` by `bytes` under the permissions `mode`: temporary file, fsync, rename, fsync of the folder.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let temporary = beside(path);
    // A leftover of a power cut may have other permissions; the new file must never pass through them.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("remove", &temporary)(e)),
        _ => {}
    }
    let written =
        write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path).map_err(at("replace", path)));
    if let Err(e) = written {
        // The old content still stands; the remainder is only in the way.
        drop(fs::remove_file(&temporary));
        return Err(e);
    }
    sync_folder(path)
}

/// Replaces `path` by the JSON form of `value`, as [`replace`] does; if it has none, the old content stands.
pub fn replace_json(path: &Path, value: &impl Serialize, mode: u32) -> Result<(), DurableError> {
    let bytes = serde_json::to_vec(value).map_err(|e| at("write as JSON", path)(e.into()))?;
    replace(path, &bytes, mode)
}

/// Gives a file another name in the same folder, durably; what had the name is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    fs::rename(from, to).map_err(at("rename", from))?;
    sync_folder(to)
}

/// Removes `path` durably; it is no error if there is none.
pub fn remove(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at("remove", path)(e)),
        Ok(()) => sync_folder(path),
    }
}

/// Makes `path` and its missing parents; if `private`, the folder itself, unlike its parents, is open to its owner alone.
pub fn make_folder(path: &Path, private: bool) -> Result<(), DurableError> {
    if path.is_dir() {
        return Ok(());
    }
    let make = |path: &Path, mode| {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(at("make the folder", path))
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make(parent, 0o755)?;
    }
    make(path, if private { 0o700 } else { 0o755 })
}

/// The content of `path`, or none if there is no such file; a file longer than `limit` is an error.
pub fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, DurableError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(at("open", path))?,
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(at("read", path))?;
    if bytes.len() > limit {
        return Err(at("read", path)(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(bytes))
}

/// The names in the folder `path` that are text; none if there is no such folder.
pub fn names(path: &Path) -> Result<Vec<String>, DurableError> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at("list", path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(at("list", path))?.file_name().into_string().ok());
    }
    Ok(names)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(at("create", path))?;
    file.write_all(bytes).map_err(at("write", path))?;
    file.sync_all().map_err(at("flush", path))
}

fn sync_folder(path: &Path) -> Result<(), DurableError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("flush", folder))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DurableError + 'a {
    move |source| DurableError { step, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_leftover_of_a_power_cut_is_replaced_and_its_permissions_are_not_inherited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.pem");
        fs::write(beside(&path), b"half a ke").unwrap();
        fs::set_permissions(beside(&path), fs::Permissions::from_mode(0o666)).unwrap();
        replace(&path, b"whole key", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!beside(&path).exists());
    }

    #[test]
    fn a_private_folder_leaves_the_way_to_its_neighbours_open() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        make_folder(&folder.path().join("device/keys"), true).unwrap();
        assert_eq!((mode("device/keys"), mode("device") & 0o011), (0o700, 0o011));
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused_instead_of_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [0; 11]).unwrap();
        assert!(read(&path, 10).is_err());
        assert_eq!(read(&path, 11).unwrap().map(|bytes| bytes.len()), Some(11));
        assert_eq!(read(&folder.path().join("none"), 10).unwrap(), None);
    }

    #[test]
    fn a_value_without_a_json_form_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace_json(&path, &"old", 0o600).unwrap();
        let unwritable = std::collections::BTreeMap::from([([0_u8; 2], "a key that is no text")]);
        assert!(replace_json(&path, &unwritable, 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), br#""old""#);
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_no_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(names(&path).unwrap(), [""; 0]);
        fs::write(&path, b"").unwrap();
        assert!(names(&path).is_err());
        assert_eq!(names(folder.path()).unwrap(), ["file"]);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new", 0o600).is_err(), "a folder stands in the way");
        assert!(path.is_dir());
        assert!(!beside(&path).exists(), "no remainder is left behind");
    }
}
