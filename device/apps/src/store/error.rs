//! The ways in which the store fails.

use std::{
    io,
    path::{Path, PathBuf},
};

use protocol_types::{Digest, ReasonCode};

use crate::refusal::{Coded, storage_code};

/// The store could not do what was asked; what it held before is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of ours that cannot be read back.
    #[error("{} does not have the form that this version writes", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// Bytes that are not those of the digest.
    #[error("the bytes that arrived for {wanted} have the digest {got}")]
    WrongDigest {
        /// The digest that was signed.
        wanted: Digest,
        /// The digest of the bytes.
        got: Digest,
    },
    /// No room on the disk.
    #[error("{needed} bytes are needed but only {room} are free")]
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        room: u64,
    },
    /// No range of user ids is left.
    #[error("there is no range of user ids left for application {0}")]
    NoRange(protocol_types::AppName),
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl Coded for StoreError {
    fn code(&self) -> ReasonCode {
        match self {
            Self::Io { source, .. } => storage_code(source),
            Self::Malformed { .. } => ReasonCode::StorageFailed,
            Self::WrongDigest { .. } => ReasonCode::DigestMismatch,
            Self::NoRoom { .. } => ReasonCode::NoRoom,
            Self::NoRange(_) => ReasonCode::Internal,
        }
    }
}
