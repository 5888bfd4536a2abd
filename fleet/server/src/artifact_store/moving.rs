//! Brings artifacts that were complete before there was a bucket into it, and takes back uploads to it that a crash cut off.

use std::{fs, io, path::Path, time::Duration};

use protocol_types::{AccountName, Digest};
use tokio::time::sleep;

use super::{ArtifactStore, Bucket, Checked, blocking};
use crate::fleet::Fleet;

/// The end of the name of a file that remembers an upload in parts.
pub(super) const NOTE: &str = "upload";
/// How long after something did not work the next look is.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// A file beside the whole artifacts.
struct Found {
    account: AccountName,
    digest: Digest,
    is_note: bool,
}

/// Moves one after the other until nothing is left to move. Runs until the service stops.
pub(crate) async fn move_in(fleet: Fleet) {
    let store = &fleet.artifacts;
    let work = async {
        let Some(bucket) = &store.bucket else { return };
        loop {
            match store.move_all(bucket).await {
                Ok(0) => return,
                Ok(left) => tracing::warn!(left, "artifacts were not moved into the bucket"),
                Err(error) => {
                    tracing::warn!(error = %crate::Chain(&error), "artifacts cannot be moved into the bucket")
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    fleet.stop.run_until_cancelled(work).await;
    fleet.stop.cancelled().await;
}

impl ArtifactStore {
    /// Moves what there is; answers how much is left.
    pub(super) async fn move_all(&self, bucket: &Bucket) -> io::Result<usize> {
        let folder = self.folder.clone();
        let all = blocking(move || found(&folder)).await?;
        let (mut moved, mut left) = (0_usize, 0_usize);
        for Found { account, digest, is_note } in all {
            // Whoever writes it now looks after it.
            let Some(turn) = self.turn(&account, digest) else { continue };
            let done = if is_note {
                bucket.take_back((&account, &digest), &turn.note_path()).await.map(|()| Checked::Kept)
            } else {
                turn.send_whole(bucket).await
            };
            match done {
                Ok(Checked::Kept) => moved += usize::from(!is_note),
                Ok(Checked::Discarded) => {
                    left += 1;
                    tracing::error!(%account, %digest, "an artifact on the disk is damaged; upload it again");
                }
                Err(error) => {
                    left += 1;
                    tracing::warn!(%account, %digest, error = %crate::Chain(&error), "an artifact was not moved");
                }
            }
        }
        if moved > 0 {
            tracing::info!(moved, left, bucket = bucket.name(), "artifacts were moved into the bucket");
        }
        Ok(left)
    }
}

/// Whole artifacts, and notes of uploads, below the folder.
fn found(folder: &Path) -> io::Result<Vec<Found>> {
    let accounts = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for entry in accounts {
        let entry = entry?;
        let Some(account) = entry.file_name().to_str().and_then(|name| AccountName::new(name).ok()) else { continue };
        for file in fs::read_dir(entry.path())? {
            let name = file?.file_name();
            let Some(name) = name.to_str() else { continue };
            let (hex, is_note) = match name.split_once('.') {
                None => (name, false),
                Some((hex, NOTE)) => (hex, true),
                Some(_) => continue,
            };
            if let Ok(digest) = Digest::from_hex(hex) {
                all.push(Found { account: account.clone(), digest, is_note });
            }
        }
    }
    Ok(all)
}
