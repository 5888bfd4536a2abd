//! What the service says about which versions are current: snapshot and timestamp. Never says what a release is.

use std::collections::{BTreeMap, HashMap};

use protocol_types::{Digest, UnixSeconds};
use tough::{
    key_source::KeySource,
    schema::{Hashes, Metafile, Snapshot, Timestamp},
};

use super::{
    DraftError, SignedFile,
    draft::{expires, to_value, version},
    sign,
};
use crate::metadata::{SPEC_VERSION, TIMESTAMP_FILE, snapshot_file};

/// What snapshot and timestamp shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlineDraft {
    /// The time of signing.
    pub now: UnixSeconds,
    /// Version of the last snapshot that was signed; 0 if there is none.
    pub last_snapshot: u64,
    /// Version of the last timestamp that was signed; 0 if there is none.
    pub last_timestamp: u64,
    /// When the snapshot expires.
    pub snapshot_expires: UnixSeconds,
    /// When the timestamp expires: soon, since devices take it as a bound for the present.
    pub timestamp_expires: UnixSeconds,
    /// Every current file of `targets` and the delegated roles: name without version (`targets.json`), version and bytes.
    pub files: BTreeMap<String, (u64, Vec<u8>)>,
}

/// The signed files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlineFiles {
    /// The snapshot; store it first.
    pub snapshot: SignedFile,
    /// The timestamp that names it; devices see the change when this is stored.
    pub timestamp: SignedFile,
}

impl OnlineDraft {
    /// Signs the snapshot with `snapshot_keys` and the timestamp with `timestamp_keys`. Their versions are at least the Unix time
    /// of signing, so that a service restored from an old backup does not fall behind what it once said.
    ///
    /// # Errors
    /// If a time or version cannot be carried or a key cannot be used.
    pub async fn sign(
        &self,
        snapshot_keys: &[Box<dyn KeySource>],
        timestamp_keys: &[Box<dyn KeySource>],
    ) -> Result<OnlineFiles, DraftError> {
        let number = self.last_snapshot.saturating_add(1).max(self.now.0);
        let mut snapshot = Snapshot::new(SPEC_VERSION.to_owned(), version(number)?, expires(self.snapshot_expires)?);
        for (name, (number, bytes)) in &self.files {
            snapshot.meta.insert(name.clone(), metafile(*number, bytes)?);
        }
        let bytes = sign(to_value("snapshot", &snapshot)?, snapshot_keys).await?;
        let snapshot = SignedFile { name: snapshot_file(number), bytes };

        let last = version(self.last_timestamp.saturating_add(1).max(self.now.0))?;
        let mut timestamp = Timestamp::new(SPEC_VERSION.to_owned(), last, expires(self.timestamp_expires)?);
        timestamp.meta.insert("snapshot.json".to_owned(), metafile(number, &snapshot.bytes)?);
        let bytes = sign(to_value("timestamp", &timestamp)?, timestamp_keys).await?;
        Ok(OnlineFiles { snapshot, timestamp: SignedFile { name: TIMESTAMP_FILE.to_owned(), bytes } })
    }
}

fn metafile(number: u64, bytes: &[u8]) -> Result<Metafile, DraftError> {
    let sha256 = Digest::of(bytes).as_bytes().to_vec().into();
    Ok(Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(Hashes { sha256, _extra: HashMap::new() }),
        version: version(number)?,
        _extra: HashMap::new(),
    })
}
