//! A folder of artifacts, each a file named by its SHA-256. Never leaves a half-written file under a final name.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use protocol_types::{Digest, Hasher};

/// Bytes of a section that one entry of a block list covers.
const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == protocol_release::document::BLOCK_BYTES);

/// A folder in which every file's name is the digest of its content.
#[derive(Clone, Debug)]
pub struct ArtifactFolder {
    path: PathBuf,
}

/// What identifies an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its SHA-256.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// An artifact and the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// What identifies it.
    pub stored: Stored,
    /// The file.
    pub path: PathBuf,
}

/// An artifact that could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The source could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The source.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder could not be written.
    #[error("cannot write an artifact into {path}")]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ArtifactFolder {
    /// The folder at `path`, made if it is not there.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ArtifactError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(|source| ArtifactError::Write { path: path.clone(), source })?;
        Ok(Self { path })
    }

    /// Where the artifact with this digest is or would be.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.path.join(digest.hex())
    }

    /// Stores bytes that are in memory.
    pub fn add_bytes(&self, bytes: &[u8]) -> Result<Stored, ArtifactError> {
        self.add(&mut &*bytes, Path::new("memory"))
    }

    /// Stores a copy of a file.
    pub fn add_file(&self, file: &Path) -> Result<Stored, ArtifactError> {
        let mut from = File::open(file).map_err(|source| ArtifactError::Read { path: file.to_owned(), source })?;
        self.add(&mut from, file)
    }

    fn add(&self, from: &mut dyn Read, name: &Path) -> Result<Stored, ArtifactError> {
        let write = |source| ArtifactError::Write { path: self.path.clone(), source };
        let mut to = tempfile::NamedTempFile::new_in(&self.path).map_err(write)?;
        let (mut hasher, mut size) = (Hasher::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read =
                from.read(&mut buffer).map_err(|source| ArtifactError::Read { path: name.to_owned(), source })?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            hasher.update(piece);
            size += read as u64;
            to.write_all(piece).map_err(write)?;
        }
        let digest = hasher.finish();
        // A temporary file is private; an artifact is for everybody who may see the folder.
        to.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(write)?;
        to.as_file().sync_all().map_err(write)?;
        to.persist(self.path_of(&digest)).map_err(|error| write(error.error))?;
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(write)?;
        Ok(Stored { digest, size })
    }
}

/// The block list of a section: the SHA-256 of each 4 KiB block one after the other, the last block padded with zeros.
pub fn block_list(mut section: impl Read) -> io::Result<Vec<u8>> {
    let (mut list, mut block) = (Vec::new(), [0; BLOCK]);
    loop {
        let mut filled = 0;
        while let Some(room) = block.get_mut(filled..).filter(|room| !room.is_empty()) {
            match section.read(room)? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            return Ok(list);
        }
        block.iter_mut().skip(filled).for_each(|byte| *byte = 0);
        list.extend_from_slice(Digest::of(&block).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_artifact_is_found_under_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ArtifactFolder::create(dir.path().join("artifacts")).unwrap();
        let stored = folder.add_bytes(b"abc").unwrap();
        assert_eq!(stored, Stored { digest: Digest::of(b"abc"), size: 3 });
        let copy = folder.add_file(&folder.path_of(&stored.digest)).unwrap();
        assert_eq!(copy, stored);
        assert_eq!(fs::read_dir(dir.path().join("artifacts")).unwrap().count(), 1, "no temporary file stays");
    }

    /// Hands out one byte at a time, as a pipe may.
    struct Dribble<'a>(&'a [u8]);
    impl Read for Dribble<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut to[..1])
        }
    }

    proptest! {
        #[test]
        fn a_block_list_has_one_digest_a_block_however_the_bytes_arrive(length in 0_usize..3 * BLOCK) {
            let section: Vec<u8> = (0..=250_u8).cycle().take(length).collect();
            let list = block_list(&*section).unwrap();
            prop_assert_eq!(list.len(), length.div_ceil(BLOCK) * 32);
            prop_assert_eq!(&list, &block_list(Dribble(&section)).unwrap());
            for (digest, block) in list.chunks(32).zip(section.chunks(BLOCK)) {
                let mut padded = block.to_vec();
                padded.resize(BLOCK, 0);
                let expected = Digest::of(&padded);
                prop_assert_eq!(digest, expected.as_bytes());
            }
        }
    }
}
