//! What one file promises about another: name, version, length, digest. Never fetches the other file.

use std::collections::HashMap;

use protocol_types::{Digest, Reason, ReasonCode};
use tough::schema::Metafile;

use super::Step;
use crate::metadata::MAX_METADATA_BYTES;

/// A metadata file that its parent names.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Its file name, with the version.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: u64,
    length: Option<u64>,
    sha256: Option<Vec<u8>>,
}

impl Expected {
    /// What `meta` says about `entry`, a name without version. A parent that says nothing is [`ReasonCode::MixAndMatch`].
    pub(crate) fn of(meta: &HashMap<String, Metafile>, entry: &str) -> Result<Self, Reason> {
        let Some(file) = meta.get(entry) else {
            return Err(Reason::new(ReasonCode::MixAndMatch, format!("the metadata in force does not name `{entry}`")));
        };
        let version = file.version.get();
        let sha256 = file.hashes.as_ref().map(|hashes| hashes.sha256.to_vec());
        Ok(Self { name: format!("{version}.{entry}"), version, length: file.length, sha256 })
    }

    /// The request for it.
    pub(crate) fn fetch(&self) -> Result<Step, Reason> {
        let name = self.name.clone();
        match self.length.map(u32::try_from) {
            None => Ok(Step::FetchMetadata { name, max_bytes: MAX_METADATA_BYTES }),
            Some(Ok(max_bytes)) if max_bytes <= MAX_METADATA_BYTES => Ok(Step::FetchMetadata { name, max_bytes }),
            Some(_) => {
                let text = format!("{name} is announced with more than {MAX_METADATA_BYTES} bytes");
                Err(Reason::new(ReasonCode::Oversized, text))
            }
        }
    }

    /// Compares length and digest (TUF specification, sections 5.5.2, 5.6.2), before anything of `bytes` is read.
    pub(crate) fn admit(&self, bytes: &[u8]) -> Result<(), Reason> {
        let name = &self.name;
        if let Some(length) = self.length {
            same_length(name, bytes, length)?;
        }
        match &self.sha256 {
            Some(sha256) if sha256.as_slice() != Digest::of(bytes).as_bytes() => {
                Err(Reason::new(ReasonCode::MixAndMatch, format!("{name} is not the file that its parent names")))
            }
            _ => Ok(()),
        }
    }

    /// Compares the version inside the file with the one that the parent names.
    pub(crate) fn same_version(&self, version: u64) -> Result<(), Reason> {
        if version == self.version {
            return Ok(());
        }
        let text = format!("{} has version {version}, its parent names {}", self.name, self.version);
        Err(Reason::new(ReasonCode::MixAndMatch, text))
    }
}

/// Compares an artifact with its signed length and digest.
pub(super) fn admit_artifact(what: &str, bytes: &[u8], digest: Digest, size: u64) -> Result<(), Reason> {
    same_length(what, bytes, size)?;
    let found = Digest::of(bytes);
    if found == digest {
        return Ok(());
    }
    Err(Reason::new(ReasonCode::DigestMismatch, format!("{what} has digest {found}, {digest} was signed")))
}

fn same_length(what: &str, bytes: &[u8], length: u64) -> Result<(), Reason> {
    let found = bytes.len() as u64;
    let code = match found.cmp(&length) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => ReasonCode::Truncated,
        std::cmp::Ordering::Greater => ReasonCode::Oversized,
    };
    Err(Reason::new(code, format!("{what} has {found} bytes, {length} were signed")))
}
