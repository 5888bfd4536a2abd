//! The bytes of artifacts on disk: `artifacts/ACCOUNT/HEX`, and `HEX.part` while they arrive. A file without `.part` is whole and
//! had its digest checked before it got its name.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use protocol_types::{AccountName, Digest, Hasher};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncSeekExt, AsyncWriteExt},
    task::spawn_blocking,
};

use crate::durable;

/// Where the bytes of all accounts lie. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ArtifactFiles {
    folder: PathBuf,
    busy: Arc<Mutex<HashSet<(AccountName, Digest)>>>,
}

/// The right to write one artifact; nobody else has it at the same time.
pub(crate) struct Turn {
    files: ArtifactFiles,
    key: (AccountName, Digest),
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.files.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// An unfinished artifact, open at the place where its next byte goes.
pub(crate) struct Part {
    file: File,
    at: u64,
}

/// What became of the bytes of an artifact that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// They have the digest and their final name.
    Kept,
    /// They had another digest and are gone.
    Discarded,
}

impl ArtifactFiles {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("artifacts"), busy: Arc::default() }
    }

    /// Where a whole artifact lies.
    pub(crate) fn path(&self, account: &AccountName, digest: &Digest) -> PathBuf {
        // Neither name can hold a separator.
        self.folder.join(account.as_str()).join(digest.hex())
    }

    fn part_path(&self, account: &AccountName, digest: &Digest) -> PathBuf {
        self.path(account, digest).with_added_extension("part")
    }

    /// The right to write an artifact; `None` while somebody else has it.
    pub(crate) fn turn(&self, account: &AccountName, digest: Digest) -> Option<Turn> {
        let key = (account.clone(), digest);
        let taken = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        taken.then(|| Turn { files: self.clone(), key })
    }

    /// A small artifact, whole.
    pub(crate) async fn read(&self, account: &AccountName, digest: &Digest) -> io::Result<Vec<u8>> {
        tokio::fs::read(self.path(account, digest)).await
    }
}

impl Turn {
    /// Opens the unfinished file and cuts off what was written after the last acknowledged byte: after a power cut nobody knows
    /// what it is. `None` if acknowledged bytes are gone.
    pub(crate) async fn open(&self, acknowledged: u64) -> io::Result<Option<Part>> {
        let path = self.files.part_path(&self.key.0, &self.key.1);
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
            sync_folders(folder.to_owned()).await?;
        }
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).await?;
        if file.metadata().await?.len() < acknowledged {
            return Ok(None);
        }
        file.set_len(acknowledged).await?;
        file.seek(io::SeekFrom::Start(acknowledged)).await?;
        Ok(Some(Part { file, at: acknowledged }))
    }

    /// Checks the digest of everything that arrived. May be asked again after a crash at any point of it.
    pub(crate) async fn finish(&self) -> io::Result<Checked> {
        let (account, digest) = self.key.clone();
        let (part, whole) = (self.files.part_path(&account, &digest), self.files.path(&account, &digest));
        blocking(move || {
            // A crash after the rename: the bytes were checked before they got their name. Without either file they are gone.
            if !part.exists() {
                return Ok(if whole.exists() { Checked::Kept } else { Checked::Discarded });
            }
            if digest_of(&part)? != digest {
                durable::remove(&part)?;
                return Ok(Checked::Discarded);
            }
            fs::rename(&part, &whole)?;
            durable::sync_folder_of(&whole)?;
            Ok(Checked::Kept)
        })
        .await
    }
}

impl Part {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.at = self.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Where the next byte goes.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// Brings everything written so far onto the disk.
    pub(crate) async fn sync(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.sync_data().await
    }
}

async fn sync_folders(folder: PathBuf) -> io::Result<()> {
    blocking(move || {
        fs::File::open(&folder)?.sync_all()?;
        durable::sync_folder_of(&folder)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 1 << 18]);
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> AccountName {
        AccountName::new("acme").unwrap()
    }

    #[tokio::test]
    async fn bytes_after_the_last_acknowledged_one_do_not_survive_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let files = ArtifactFiles::new(folder.path());
        let digest = Digest::of(b"good bytes");
        {
            let turn = files.turn(&account(), digest).unwrap();
            let mut part = turn.open(0).await.unwrap().unwrap();
            part.write(b"good garbage").await.unwrap();
            part.sync().await.unwrap();
        }
        let turn = files.turn(&account(), digest).unwrap();
        let mut part = turn.open(5).await.unwrap().unwrap();
        part.write(b"bytes").await.unwrap();
        part.sync().await.unwrap();
        assert_eq!(turn.finish().await.unwrap(), Checked::Kept);
        assert_eq!(turn.finish().await.unwrap(), Checked::Kept, "asked again after a crash");
        assert_eq!(files.read(&account(), &digest).await.unwrap(), b"good bytes");
    }

    #[tokio::test]
    async fn bytes_with_another_digest_are_discarded_and_lost_ones_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let files = ArtifactFiles::new(folder.path());
        let turn = files.turn(&account(), Digest::of(b"wanted")).unwrap();
        turn.open(0).await.unwrap().unwrap().write(b"other!").await.unwrap();
        assert_eq!(turn.finish().await.unwrap(), Checked::Discarded);
        assert_eq!(turn.finish().await.unwrap(), Checked::Discarded, "asked again when nothing is there");
        assert!(turn.open(6).await.unwrap().is_none(), "acknowledged bytes are gone");
    }

    #[test]
    fn two_uploads_of_the_same_bytes_never_write_at_once() {
        let files = ArtifactFiles::new(Path::new("/nowhere"));
        let digest = Digest::of(b"x");
        let turn = files.turn(&account(), digest).unwrap();
        assert!(files.turn(&account(), digest).is_none());
        drop(turn);
        assert!(files.turn(&account(), digest).is_some());
    }
}
