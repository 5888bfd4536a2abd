//! Reads small files that somebody else wrote, with a limit. Never writes.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// The bytes of the file at `path`.
///
/// # Errors
/// If it cannot be read or is longer than `limit` bytes.
pub fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(more).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// The bytes of the file at `path`; none if there is no such file.
///
/// # Errors
/// As [`read_at_most`] otherwise.
pub fn read_if_there(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    match read_at_most(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
