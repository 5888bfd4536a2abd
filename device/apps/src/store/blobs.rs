//! Blobs by digest. A blob under its final name has been checked; one on its way resumes where it stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use protocol_types::{Digest, Hasher};

use super::{StoreError, durable};
use crate::image::BlobRef;

/// The folder of blobs.
#[derive(Debug)]
pub struct Blobs {
    whole: PathBuf,
    partial: PathBuf,
}

impl Blobs {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let blobs = Self { whole: dir.join("sha256"), partial: dir.join("partial") };
        durable::folder(&blobs.whole)?;
        durable::folder(&blobs.partial)?;
        Ok(blobs)
    }

    /// Whether the blob is there with its length; its digest was checked before it got its name.
    pub fn has(&self, blob: &BlobRef) -> bool {
        fs::metadata(self.path(&blob.digest)).is_ok_and(|meta| meta.is_file() && meta.len() == blob.size)
    }

    /// Bytes of the blob that are in storage, whole or not.
    pub fn have(&self, blob: &BlobRef) -> u64 {
        if self.has(blob) {
            return blob.size;
        }
        fs::metadata(self.partial.join(blob.digest.hex())).map_or(0, |meta| meta.len().min(blob.size))
    }

    /// Refuses blobs for which there is no room all together.
    pub fn need(&self, blobs: &[BlobRef]) -> Result<(), StoreError> {
        let each: BTreeMap<_, _> = blobs.iter().map(|blob| (blob.digest, blob)).collect();
        let missing = each.values().map(|blob| blob.size.saturating_sub(self.have(blob)));
        durable::need(&self.partial, missing.fold(0, u64::saturating_add))
    }

    /// The blob's bytes from the beginning.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).map_err(StoreError::io("open the blob", &path))
    }

    /// A small blob as a whole, checked against its digest once more.
    pub fn read(&self, blob: &BlobRef) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let path = self.path(&blob.digest);
        let mut file = self.open_blob(&blob.digest)?.take(blob.size.saturating_add(1));
        file.read_to_end(&mut bytes).map_err(StoreError::io("read the blob", &path))?;
        match Digest::of(&bytes) {
            got if got == blob.digest => Ok(bytes),
            got => Err(StoreError::WrongDigest { wanted: blob.digest, got }),
        }
    }

    /// Removes the blob if its bytes have gone bad, so that it is fetched again; says whether they had.
    pub fn drop_if_damaged(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.path(digest);
        let mut hasher = Hasher::new();
        hash(&mut self.open_blob(digest)?, &mut hasher).map_err(StoreError::io("read the blob", &path))?;
        if hasher.finish() == *digest {
            return Ok(false);
        }
        durable::remove(&path)?;
        Ok(true)
    }

    /// Opens the blob to be continued: what an earlier attempt left is read and taken into the digest.
    pub fn resume(&self, blob: &BlobRef) -> Result<Partial, StoreError> {
        let path = self.partial.join(blob.digest.hex());
        let opened = || -> std::io::Result<_> {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            if file.metadata()?.len() > blob.size {
                file.set_len(0)?;
            }
            let mut hasher = Hasher::new();
            let at = hash(&mut file, &mut hasher)?;
            Ok((file, hasher, at))
        };
        let (file, hasher, at) = opened().map_err(StoreError::io("open the partial blob", &path))?;
        durable::need(&self.partial, blob.size.saturating_sub(at))?;
        Ok(Partial { file, hasher, at, resumed: at > 0, path, blob: *blob })
    }

    /// Gives a complete blob its name. On any failure the partial file is gone, so that the next attempt starts afresh.
    pub fn finish(&self, partial: Partial) -> Result<(), StoreError> {
        let Partial { file, hasher, path, blob, .. } = partial;
        let got = hasher.finish();
        if got != blob.digest {
            durable::remove(&path)?;
            return Err(StoreError::WrongDigest { wanted: blob.digest, got });
        }
        file.sync_all().map_err(StoreError::io("synchronise", &path))?;
        durable::rename(&path, &self.path(&blob.digest), &self.whole)
    }

    /// Removes what arrived of a blob.
    pub fn abandon(&self, partial: &Partial) -> Result<(), StoreError> {
        durable::remove(&partial.path)
    }

    /// Removes all that `keep` does not name; says whether there was any.
    pub(super) fn retain(&self, keep: &BTreeSet<Digest>) -> Result<bool, StoreError> {
        let mut removed = false;
        for dir in [&self.whole, &self.partial] {
            for name in durable::names(dir)? {
                if !Digest::from_hex(&name).is_ok_and(|digest| keep.contains(&digest)) {
                    durable::remove(&dir.join(name))?;
                    removed = true;
                }
            }
        }
        Ok(removed)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.whole.join(digest.hex())
    }
}

/// The beginning of a blob.
#[derive(Debug)]
pub struct Partial {
    file: File,
    hasher: Hasher,
    at: u64,
    resumed: bool,
    path: PathBuf,
    blob: BlobRef,
}

impl Partial {
    /// Bytes that are there.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that are missing.
    pub const fn missing(&self) -> u64 {
        self.blob.size.saturating_sub(self.at)
    }

    /// Whether an earlier attempt left some of the bytes.
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// Takes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Begins again at the first byte.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(StoreError::io("empty", &self.path))?;
        (self.at, self.resumed, self.hasher) = (0, false, Hasher::new());
        Ok(())
    }

    /// Whether the bytes so far have the digest of the blob.
    pub fn matches(&self) -> bool {
        self.hasher.clone().finish() == self.blob.digest
    }
}

fn hash(file: &mut File, hasher: &mut Hasher) -> std::io::Result<u64> {
    let mut piece = [0; 16 * 1024];
    let mut total = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(total),
            read => {
                hasher.update(&piece[..read]);
                total += read as u64;
            }
        }
    }
}
