//! The ways in which a layer is refused or cannot be unpacked.

use std::{error::Error, io};

use protocol_types::{Digest, ReasonCode};

use crate::refusal::{Coded, storage_code};

/// A layer that is refused, or that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// An entry that could reach outside of the application's root, or give it a device.
    #[error("layer entry `{path}` {what}")]
    Unsafe {
        /// The entry, shortened.
        path: String,
        /// What it does.
        what: &'static str,
    },
    /// An entry or archive that is not well formed.
    #[error("layer entry `{path}` {what}")]
    Malformed {
        /// The entry, shortened.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The archive or its compression cannot be read.
    #[error("the layer is not a complete archive in the compression that its media type names")]
    Archive {
        /// What the reader says.
        source: io::Error,
    },
    /// More than a limit allows.
    #[error("the image's layers hold more {what} than the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The unpacked archive is not the one that the configuration names.
    #[error("the unpacked layer has the digest {got} where the image configuration names {wanted}")]
    WrongDiffId {
        /// Digest in the configuration.
        wanted: Digest,
        /// Digest of the archive.
        got: Digest,
    },
    /// Storage failed.
    #[error("cannot {what} `{path}`")]
    Storage {
        /// What was tried.
        what: &'static str,
        /// On which entry.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Coded for LayerError {
    fn code(&self) -> ReasonCode {
        match self {
            Self::Unsafe { .. } => ReasonCode::UnsafeLayer,
            Self::Malformed { .. } | Self::Archive { .. } => ReasonCode::MalformedImage,
            Self::TooLarge { .. } => ReasonCode::Oversized,
            Self::WrongDiffId { .. } => ReasonCode::DigestMismatch,
            Self::Storage { source, .. } => storage_code(source),
        }
    }
}

/// The reader that hit a limit says so through `io::Error`, from which [`LayerError::from_read`] takes it out again.
#[derive(Debug, thiserror::Error)]
#[error("more {what} than the limit of {limit}")]
pub(super) struct LimitHit {
    pub(super) what: &'static str,
    pub(super) limit: u64,
}

impl LayerError {
    /// The error for a failed read of the archive.
    pub(super) fn from_read(source: io::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&source);
        while let Some(error) = cause {
            let hit = error.downcast_ref::<LimitHit>().or_else(|| {
                error.downcast_ref::<io::Error>().and_then(|e| e.get_ref()).and_then(|e| e.downcast_ref::<LimitHit>())
            });
            if let Some(&LimitHit { what, limit }) = hit {
                return Self::TooLarge { what, limit };
            }
            cause = error.source();
        }
        Self::Archive { source }
    }
}

/// At most 120 characters of a path from an archive, without control characters.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(120).flat_map(char::escape_default).collect()
}
