//! Files with private keys: readable by their owner alone, written whole or not at all. Knows nothing of what the keys are for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use super::AuthorityError;

/// No file of ours comes near this; a longer one is not ours.
const MAX_BYTES: u64 = 64 * 1024;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { action, path, source }
}

/// Makes a folder that only its owner may enter.
pub(super) fn private_folder(path: &Path) -> Result<(), AuthorityError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("make the folder", path)(error)),
    }
}

/// Reads a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, AuthorityError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if metadata.len() > MAX_BYTES {
        return Err(AuthorityError::Damaged { path: path.to_owned(), expected: "a key of this service" });
    }
    fs::read_to_string(path).map(Some).map_err(failed("read", path))
}

/// Writes a private file that survives a crash: temporary file, fsync, rename, fsync of the folder.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), AuthorityError> {
    write(path, text, 0o600)
}

/// Writes a file that anybody may read, unless it already says the same.
pub(super) fn publish(path: &Path, text: &str) -> Result<(), AuthorityError> {
    if read(path)?.as_deref() == Some(text) { Ok(()) } else { write(path, text, 0o644) }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&temporary).map_err(failed("make", &temporary))?;
    // A file left by an interrupted start keeps its own mode unless it is set again.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("protect", &temporary))?;
    file.write_all(text.as_bytes()).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("put in place", path))?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<(), AuthorityError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed("write the folder", parent))
}
