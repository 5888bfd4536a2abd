//! An upload that is not whole: a file that grows, and forgets what was written behind the last acknowledged byte.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use protocol_types::{Digest, Hasher, UnixSeconds};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
};

use super::{Turn, blocking};
use crate::durable;

/// An unfinished artifact, open at the place where its next byte goes.
pub(crate) struct Part {
    file: File,
    at: u64,
}

impl Turn {
    /// Opens the unfinished file and cuts off what was written after the last acknowledged byte: after a power cut nobody knows
    /// what it is. `None` if acknowledged bytes are gone.
    pub(crate) async fn open(&self, acknowledged: u64) -> io::Result<Option<Part>> {
        let path = self.part_path();
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

    /// Removes the unfinished file, unless something was written to it since `before`. Answers whether there is none any more.
    pub(crate) async fn forget(&self, before: UnixSeconds) -> io::Result<bool> {
        let path = self.part_path();
        blocking(move || {
            let written = match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                found => found?.modified()?,
            };
            if written.duration_since(UNIX_EPOCH).is_ok_and(|since| since.as_secs() >= before.0) {
                return Ok(false);
            }
            durable::remove(&path)?;
            Ok(true)
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

pub(super) fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 1 << 18]);
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
