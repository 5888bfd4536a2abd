//! Files with private keys: readable by their owner alone, written whole or not at all. Knows nothing of what the keys are for.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

use super::AuthorityError;
use crate::durable::{self, Audience};

/// No file of ours comes near this; a longer one is not ours.
const MAX_BYTES: u64 = 64 * 1024;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { action, path, source }
}

/// Makes a folder that only its owner may enter.
pub(super) fn private_folder(path: &Path) -> Result<(), AuthorityError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => durable::sync_folder_of(path).map_err(failed("keep", path)),
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

/// Writes a private file that survives a crash whole, or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), AuthorityError> {
    durable::write(path, text.as_bytes(), Audience::Owner).map_err(failed("write", path))
}

/// Writes a file that anybody may read, unless it already says the same.
pub(super) fn publish(path: &Path, text: &str) -> Result<(), AuthorityError> {
    if read(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    durable::write(path, text.as_bytes(), Audience::Everybody).map_err(failed("write", path))
}
