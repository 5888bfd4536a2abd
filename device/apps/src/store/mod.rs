//! What `mbl-apps` keeps on disk: blobs by digest, unpacked images, sets of applications by release, ranges of user ids.
//!
//! ```text
//! state/apps/
//! ├── blobs/sha256/HEX          bytes whose digest was checked
//! ├── blobs/partial/HEX         the beginning of a blob that is on its way
//! ├── images/HEX-BASE/rootfs    the layers of the manifest HEX, owners shifted to the range that starts at BASE
//! ├── images/unpacking          at work; removed at start
//! ├── sets/HEX.json             the applications of the release HEX; written when all of it is in place
//! ├── settings.json             what the configuration says about applications, as the agent handed it on last
//! ├── ranges.json               which application has which range of user ids
//! └── logs/NAME.log(.1)         what an application wrote
//! ```
//!
//! Everything appears under its final name in one step, after its bytes are on the disk: a name that exists is whole.

mod blobs;
mod durable;
mod error;
mod images;
mod logs;
mod ranges;
mod sets;
mod settings;

pub use blobs::{Blobs, Partial};
pub use error::StoreError;
pub use images::{ImageKey, Images};
pub use logs::Logs;
pub use ranges::Ranges;
pub use sets::{Sets, StoredApplication, StoredSet};
pub use settings::KeptSettings;

use std::{collections::BTreeSet, path::Path};

use protocol_types::Digest;
use tracing::warn;

/// What stays when storage is freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Releases whose sets may still be started.
    pub sets: BTreeSet<Digest>,
    /// Images that run, whether a set still names them or not.
    pub images: BTreeSet<ImageKey>,
    /// Blobs that are on their way into a set.
    pub blobs: BTreeSet<Digest>,
}

/// The whole store.
#[derive(Debug)]
pub struct Store {
    /// Blobs by digest.
    pub blobs: Blobs,
    /// Unpacked images.
    pub images: Images,
    /// Sets by release.
    pub sets: Sets,
    /// Ranges of user ids.
    pub ranges: Ranges,
    /// Settings of applications.
    pub settings: KeptSettings,
    /// What applications wrote.
    pub logs: Logs,
}

impl Store {
    /// Opens the store in `dir`, makes what is missing and removes what a crash left half done. The lowest user id that
    /// applications get is `first_uid`.
    pub fn open(dir: &Path, first_uid: u32) -> Result<Self, StoreError> {
        Ok(Self {
            blobs: Blobs::open(&dir.join("blobs"))?,
            images: Images::open(&dir.join("images"))?,
            sets: Sets::open(&dir.join("sets"))?,
            ranges: Ranges::open(dir, first_uid)?,
            settings: KeptSettings::open(dir),
            logs: Logs::open(&dir.join("logs"))?,
        })
    }

    /// Forgets every set that `keep` does not name, then every blob and image that neither it nor a set needs, and says whether there
    /// was any; then the older logs of applications that no set names.
    pub fn retain(&self, keep: &Keep) -> Result<bool, StoreError> {
        let (mut blobs, mut images) = (keep.blobs.clone(), keep.images.clone());
        let mut names = BTreeSet::new();
        for set in self.sets.retain(&keep.sets)? {
            for application in set.applications {
                names.insert(application.spec.name);
                blobs.extend(application.blobs);
                images.insert(application.image);
            }
        }
        let (images, blobs) = (self.images.retain(&images)?, self.blobs.retain(&blobs)?);
        // Room was made all the same.
        if let Err(error) = self.logs.retain(&names) {
            warn!(%error, "old logs cannot be removed");
        }
        Ok(images || blobs)
    }
}
