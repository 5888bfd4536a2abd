//! The files of a data directory that a backup keeps, and the directory that it is restored into.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{BackupError, RESTORING, at};
use crate::{Addresses, config::EMBEDDED_DATABASE};

/// A file that a backup keeps.
pub(super) struct Kept {
    /// Its path below the data directory.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
}

/// At the top of a data directory, what belongs to one run of the service or is kept in another way.
fn is_of_this_run(name: &str) -> bool {
    // The database and its journals are copied by the database itself; a first token is made anew.
    ["lock", Addresses::FILE, "first-token", RESTORING].contains(&name) || name.starts_with(EMBEDDED_DATABASE)
}

/// What is not whole yet: uploads that go on, here and to a bucket, and files that take the place of others.
fn is_unfinished(name: &str) -> bool {
    [".part", ".upload", ".new"].iter().any(|end| name.ends_with(end))
}

/// The files to keep, in order of their names.
pub(super) fn kept(data_dir: &Path) -> Result<Vec<Kept>, BackupError> {
    let mut kept = Vec::new();
    let mut folders = vec![(String::new(), data_dir.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(at("read", &folder))? {
            let entry = entry.map_err(at("read", &folder))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(at("read", &path))?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|_| at("name", &path)(io::ErrorKind::InvalidFilename.into()))?;
            if is_unfinished(&name) || (prefix.is_empty() && is_of_this_run(&name)) {
                continue;
            }
            if kind.is_dir() {
                folders.push((format!("{prefix}{name}/"), path));
            } else if kind.is_file() {
                kept.push(Kept { name: format!("{prefix}{name}"), path });
            }
        }
    }
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(kept)
}

/// Makes the data directory, for its owner alone; it may be there if it is empty.
pub(super) fn make_empty(data_dir: &Path) -> Result<(), BackupError> {
    let doing = at("make", data_dir);
    let prepare = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        fs::set_permissions(data_dir, fs::Permissions::from_mode(0o700))?;
        fs::read_dir(data_dir)?.next().transpose().map(|first| first.is_none())
    };
    if prepare().map_err(doing)? { Ok(()) } else { Err(BackupError::NotEmpty(data_dir.to_owned())) }
}

/// Makes the names of everything below the directory last.
pub(super) fn sync_folders(data_dir: &Path) -> Result<(), BackupError> {
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(at("read", &folder))? {
            let path = entry.map_err(at("read", &folder))?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        fs::File::open(&folder).and_then(|it| it.sync_all()).map_err(at("write", &folder))?;
    }
    Ok(())
}
