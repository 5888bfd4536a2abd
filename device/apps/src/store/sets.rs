//! Sets of applications by the digest of their release. A set on disk is prepared: its blobs and images are in place.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::{ApplicationSpec, Digest};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{ImageKey, StoreError, durable};
use crate::{image::ImageProcess, refusal::reason};

/// The applications of one release and where their parts are (format 1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSet {
    /// Version of this format: 1.
    pub format: u32,
    /// Digest of the release document.
    pub release: Digest,
    /// The applications.
    pub applications: Vec<StoredApplication>,
}

/// One application of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredApplication {
    /// What the release says.
    pub spec: ApplicationSpec,
    /// Its unpacked image.
    pub image: ImageKey,
    /// What the image runs.
    pub process: ImageProcess,
    /// Every blob that the image was made from.
    pub blobs: Vec<Digest>,
}

/// The folder of sets.
#[derive(Debug)]
pub struct Sets {
    dir: PathBuf,
}

impl Sets {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        durable::folder(dir)?;
        for name in durable::names(dir)?.iter().filter(|name| name.ends_with(durable::TEMPORARY)) {
            durable::remove(&dir.join(name))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The set of `release`, if it was prepared.
    pub fn load(&self, release: &Digest) -> Result<Option<StoredSet>, StoreError> {
        let path = self.path(release);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { what: "read", path, source }),
        };
        let set: StoredSet = serde_json::from_slice(&bytes).map_err(|source| StoreError::Malformed { path, source })?;
        // A set of another format is prepared again; its blobs are found by digest.
        Ok((set.format == 1 && set.release == *release).then_some(set))
    }

    /// Records that a set is prepared.
    pub fn save(&self, set: &StoredSet) -> Result<(), StoreError> {
        let path = self.path(&set.release);
        let bytes = serde_json::to_vec(set).map_err(|source| StoreError::Malformed { path, source })?;
        durable::write(&self.dir, &format!("{}.json", set.release.hex()), &bytes)
    }

    /// The releases whose sets were prepared.
    pub fn releases(&self) -> Result<BTreeSet<Digest>, StoreError> {
        Ok(durable::names(&self.dir)?.iter().filter_map(|name| release_of(name)).collect())
    }

    /// Forgets the sets that `keep` does not name; returns the others.
    pub(super) fn retain(&self, keep: &BTreeSet<Digest>) -> Result<Vec<StoredSet>, StoreError> {
        let mut kept = Vec::new();
        for name in durable::names(&self.dir)? {
            let set = match release_of(&name) {
                // One that is damaged is prepared again; one that cannot be read now may be whole.
                Some(release) if keep.contains(&release) => match self.load(&release) {
                    Err(damaged @ StoreError::Malformed { .. }) => {
                        warn!(%release, reason = %reason(&damaged), "a damaged set of applications is forgotten");
                        None
                    }
                    loaded => loaded?,
                },
                _ => None,
            };
            match set {
                Some(set) => kept.push(set),
                None => durable::remove(&self.dir.join(name))?,
            }
        }
        durable::sync_folder(&self.dir)?;
        Ok(kept)
    }

    fn path(&self, release: &Digest) -> PathBuf {
        self.dir.join(format!("{}.json", release.hex()))
    }
}

fn release_of(file: &str) -> Option<Digest> {
    Digest::from_hex(file.strip_suffix(".json")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(sets: &Sets, text: &[u8]) -> Digest {
        let release = Digest::of(text);
        sets.save(&StoredSet { format: 1, release, applications: Vec::new() }).unwrap();
        release
    }

    #[test]
    fn a_damaged_set_is_forgotten_and_one_that_cannot_be_read_is_left_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let sets = Sets::open(folder.path()).unwrap();
        let (whole, damaged, other) = (prepared(&sets, b"1"), prepared(&sets, b"2"), prepared(&sets, b"3"));
        fs::write(sets.path(&damaged), "{").unwrap();
        let keep = BTreeSet::from([whole, damaged]);
        let kept: Vec<Digest> = sets.retain(&keep).unwrap().into_iter().map(|set| set.release).collect();
        assert_eq!(kept, [whole]);
        assert!(!sets.path(&damaged).exists() && !sets.path(&other).exists());

        // A folder cannot be read as a file.
        fs::create_dir(sets.path(&damaged)).unwrap();
        assert!(matches!(sets.retain(&keep), Err(StoreError::Io { what: "read", .. })));
        assert!(sets.path(&damaged).exists());
    }
}
