//! The bytes of artifacts. While they arrive, they lie in `artifacts/ACCOUNT/HEX.part` of the data directory. Once all of them are there and have
//! their digest, they become the file `artifacts/ACCOUNT/HEX`, or the object of that name in a bucket. What has that name is whole and was checked.

mod bucket;
mod http;
mod moving;
mod settings;
mod source;
mod unfinished;

use std::{
    collections::HashSet,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use protocol_types::{AccountName, Digest};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::Notify,
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::io::ReaderStream;

pub(crate) use self::{bucket::Bucket, moving::move_in, unfinished::Part};
pub use self::{
    bucket::BucketError,
    settings::{BucketFault, BucketSettings},
};
use crate::{Config, durable};

/// Bytes of one artifact on their way out.
pub(crate) type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Bytes that a stream from a file holds in memory.
const CHUNK: usize = 64 * 1024;
/// How long somebody waits for the end of another one's turn: less than a client waits for an answer.
const TURN: Duration = Duration::from_secs(20);

/// Where the bytes of all accounts lie. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ArtifactStore {
    folder: PathBuf,
    /// Holds what is whole, instead of the folder.
    bucket: Option<Bucket>,
    busy: Arc<Busy>,
}

/// What somebody writes at this moment.
#[derive(Debug, Default)]
struct Busy {
    keys: Mutex<HashSet<(AccountName, Digest)>>,
    /// Told when a turn ends.
    ended: Notify,
}

/// The right to write one artifact; nobody else has it at the same time.
pub(crate) struct Turn {
    store: ArtifactStore,
    key: (AccountName, Digest),
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.store.busy.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.store.busy.ended.notify_waiters();
    }
}

/// What became of the bytes of an artifact that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// They have the digest and their final name.
    Kept,
    /// They had another digest and are gone.
    Discarded,
}

impl ArtifactStore {
    /// The store of these settings; a bucket is asked whether it can be used.
    pub(crate) async fn open(config: &Config) -> Result<Self, BucketError> {
        let bucket = match &config.bucket {
            Some(settings) => Some(Bucket::open(settings).await?),
            None => None,
        };
        Ok(Self::new(&config.data_dir, bucket))
    }

    fn new(data_dir: &Path, bucket: Option<Bucket>) -> Self {
        Self { folder: data_dir.join("artifacts"), bucket, busy: Arc::default() }
    }

    /// Where a whole artifact lies that is in no bucket.
    fn path(&self, account: &AccountName, digest: &Digest) -> PathBuf {
        // Neither name can hold a separator.
        self.folder.join(account.as_str()).join(digest.hex())
    }

    /// The right to write an artifact; `None` while somebody else has it.
    pub(crate) fn turn(&self, account: &AccountName, digest: Digest) -> Option<Turn> {
        let key = (account.clone(), digest);
        let taken = self.busy.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        taken.then(|| Turn { store: self.clone(), key })
    }

    /// As [`Self::turn`], but waits a while for its end if somebody else has it.
    pub(crate) async fn next_turn(&self, account: &AccountName, digest: Digest) -> Option<Turn> {
        let wait = async {
            loop {
                let mut ended = pin!(self.busy.ended.notified());
                // Whoever ends between the look and the wait is heard.
                ended.as_mut().enable();
                if let Some(turn) = self.turn(account, digest) {
                    return turn;
                }
                ended.await;
            }
        };
        timeout(TURN, wait).await.ok()
    }

    /// A small artifact, whole.
    pub(crate) async fn read(&self, account: &AccountName, digest: &Digest) -> io::Result<Vec<u8>> {
        match (tokio::fs::read(self.path(account, digest)).await, &self.bucket) {
            (Err(error), Some(bucket)) if error.kind() == io::ErrorKind::NotFound => {
                bucket.read_all(account, digest).await
            }
            (found, _) => found,
        }
    }

    /// The bytes of a whole artifact in this range, as they come.
    pub(crate) async fn stream(
        &self,
        account: &AccountName,
        digest: &Digest,
        range: Range<u64>,
    ) -> io::Result<ByteStream> {
        // What was complete before there was a bucket is still here until it was moved.
        match (File::open(self.path(account, digest)).await, &self.bucket) {
            (Err(error), Some(_)) if error.kind() == io::ErrorKind::NotFound && range.is_empty() => {
                Ok(futures_util::stream::empty().boxed())
            }
            (Err(error), Some(bucket)) if error.kind() == io::ErrorKind::NotFound => {
                bucket.read(account, digest, range).await
            }
            (file, _) => {
                let mut file = file?;
                file.seek(io::SeekFrom::Start(range.start)).await?;
                let length = range.end.saturating_sub(range.start);
                Ok(ReaderStream::with_capacity(file.take(length), CHUNK).boxed())
            }
        }
    }
}

impl Turn {
    /// Checks the digest of everything that arrived and gives it its final name. May be asked again after a crash at any point of it.
    pub(crate) async fn finish(&self) -> io::Result<Checked> {
        match &self.store.bucket {
            None => self.keep().await,
            Some(bucket) => self.send(bucket).await,
        }
    }

    async fn keep(&self) -> io::Result<Checked> {
        let (part, whole, digest) = (self.part_path(), self.whole_path(), self.key.1);
        blocking(move || {
            // A crash after the rename: the bytes were checked before they got their name. Without either file they are gone.
            if !part.exists() {
                return Ok(if whole.exists() { Checked::Kept } else { Checked::Discarded });
            }
            if unfinished::digest_of(&part)? != digest {
                durable::remove(&part)?;
                return Ok(Checked::Discarded);
            }
            fs::rename(&part, &whole)?;
            durable::sync_folder_of(&whole)?;
            Ok(Checked::Kept)
        })
        .await
    }

    async fn send(&self, bucket: &Bucket) -> io::Result<Checked> {
        let (account, digest) = (&self.key.0, &self.key.1);
        let part = self.part_path();
        // Of a try that was cut off, whether or not the object has appeared since.
        bucket.take_back((account, digest), &self.note_path()).await?;
        let length = bucket.length(account, digest).await?;
        let file = match fs::File::open(&part) {
            // A crash after the last step: the bytes were checked before the object appeared. Without either they are gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_kept = length.is_some() || self.whole_path().exists();
                return Ok(if is_kept { Checked::Kept } else { Checked::Discarded });
            }
            other => other?,
        };
        let checked = if length == Some(file.metadata()?.len()) {
            Checked::Kept
        } else {
            bucket.put((account, digest), file, &self.note_path()).await?
        };
        // Only now: until the object was acknowledged, the bytes are nowhere else.
        blocking(move || durable::remove(&part)).await?;
        Ok(checked)
    }

    /// Brings the whole file of an artifact into the bucket.
    async fn send_whole(&self, bucket: &Bucket) -> io::Result<Checked> {
        let (account, digest) = (&self.key.0, &self.key.1);
        let whole = self.whole_path();
        let file = fs::File::open(&whole)?;
        let checked = bucket.put((account, digest), file, &self.note_path()).await?;
        if checked == Checked::Kept {
            blocking(move || durable::remove(&whole)).await?;
        }
        Ok(checked)
    }

    fn whole_path(&self) -> PathBuf {
        self.store.path(&self.key.0, &self.key.1)
    }

    fn part_path(&self) -> PathBuf {
        self.whole_path().with_added_extension("part")
    }

    /// Remembers an upload in parts to the bucket.
    fn note_path(&self) -> PathBuf {
        self.whole_path().with_added_extension(moving::NOTE)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
