//! Which document is in force before the updater runs: the one of the release that was booted, from the updater's own files. Never writes.

use std::{
    io,
    path::{Path, PathBuf},
};

use protocol_release::document::SystemConfiguration;
use protocol_types::{BootRecord, Digest, boot_record::BootRecordError};

use crate::{
    files::read_if_there,
    record::{Record, RecordError},
    serve::BOOT_RECORD,
};

/// A document that cannot be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    /// A file.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The initrd's account of this boot.
    #[error("cannot tell what was booted")]
    Boot(#[from] BootRecordError),
    /// The updater's state.
    #[error("cannot tell which release was booted")]
    Record(#[from] RecordError),
    /// Bytes that nobody signed.
    #[error("{} does not have the signed digest", path.display())]
    Digest { path: PathBuf },
}

/// The document `system` of the release that runs in the booted system, if it has one.
pub(super) fn document(device_dir: &Path) -> Result<Option<Vec<u8>>, KeptError> {
    let state = device_dir.join("state/updater");
    let Some(record) = read(&state.join("state.json"), Record::MAX_BYTES)? else { return Ok(None) };
    let Some(boot) = read(&device_dir.join(BOOT_RECORD), BootRecord::MAX_BYTES)? else { return Ok(None) };
    let (record, boot) = (Record::parse(&record)?, BootRecord::parse(&boot)?);
    let Some(wanted) = record.in_force(boot.slot, boot.root_hash).and_then(|note| note.system_configuration()) else {
        return Ok(None);
    };
    let path = state.join(wanted.file_name());
    match read(&path, SystemConfiguration::MAX_BYTES)? {
        Some(bytes) if Digest::of(&bytes) == wanted.digest => Ok(Some(bytes)),
        Some(_) => Err(KeptError::Digest { path }),
        None => Err(KeptError::Read { path, source: io::ErrorKind::NotFound.into() }),
    }
}

/// The bytes of a file, or none if there is none.
fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, KeptError> {
    read_if_there(path, limit).map_err(|source| KeptError::Read { path: path.to_owned(), source })
}
