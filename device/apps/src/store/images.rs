//! Unpacked images. An image gets its name only after every byte of it is on the disk.

use std::{
    collections::BTreeSet,
    fmt, fs,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
};

use protocol_types::Digest;
use serde::{Deserialize, Serialize};

use super::{StoreError, durable};

/// One unpacked image: a manifest in one range of user ids. Applications share no files even if they share an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageKey {
    /// Digest of the image manifest.
    pub manifest: Digest,
    /// User id outside of the container that is id 0 inside.
    pub first_uid: u32,
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.manifest.hex(), self.first_uid)
    }
}

/// The folder of images.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
}

const UNPACKING: &str = "unpacking";

impl Images {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        durable::folder(dir)?;
        let images = Self { dir: dir.to_owned() };
        images.discard()?;
        Ok(images)
    }

    /// Whether the image is there, whole.
    pub fn has(&self, key: &ImageKey) -> bool {
        self.rootfs(key).is_dir()
    }

    /// The root folder of an image.
    pub fn rootfs(&self, key: &ImageKey) -> PathBuf {
        self.dir.join(key.to_string()).join("rootfs")
    }

    /// An empty root folder, owned by `first_uid`, to be unpacked into. There is one at a time.
    pub fn begin(&self, first_uid: u32) -> Result<PathBuf, StoreError> {
        self.discard()?;
        let rootfs = self.dir.join(UNPACKING).join("rootfs");
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(&rootfs).map_err(StoreError::io("make the folder", &rootfs))?;
        chown(&rootfs, Some(first_uid), Some(first_uid)).map_err(StoreError::io("set the owner of", &rootfs))?;
        Ok(rootfs)
    }

    /// Refuses an image that needs more than what is free.
    pub fn need(&self, bytes: u64) -> Result<(), StoreError> {
        durable::need(&self.dir, bytes)
    }

    /// Gives what was unpacked its name, after one flush of the whole file system: cheaper than one a file, and as safe.
    pub fn finish(&self, key: &ImageKey) -> Result<(), StoreError> {
        let synced = fs::File::open(&self.dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(StoreError::io("synchronise", &self.dir))?;
        durable::rename(&self.dir.join(UNPACKING), &self.dir.join(key.to_string()), &self.dir)
    }

    /// Removes what was being unpacked.
    pub fn discard(&self) -> Result<(), StoreError> {
        durable::remove_tree(&self.dir.join(UNPACKING))
    }

    /// Removes all that `keep` does not name; says whether there was any.
    pub(super) fn retain(&self, keep: &BTreeSet<ImageKey>) -> Result<bool, StoreError> {
        let keep: BTreeSet<String> = keep.iter().map(ImageKey::to_string).collect();
        let mut removed = false;
        for name in durable::names(&self.dir)? {
            if !keep.contains(&name) {
                // Under another name first: a removal that a power cut ends must not leave half an image under a good name.
                self.discard()?;
                durable::rename(&self.dir.join(name), &self.dir.join(UNPACKING), &self.dir)?;
                self.discard()?;
                removed = true;
            }
        }
        Ok(removed)
    }
}
