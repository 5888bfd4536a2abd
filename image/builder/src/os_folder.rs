//! A built operating system component as it lies in its folder. Reading it back trusts nothing but digests.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use protocol_release::document::{Blocks, DocumentError, OsIndex, Section, SectionName};
use protocol_types::Digest;

use crate::artifacts::{self, ArtifactError, ArtifactFile, ArtifactFolder, Stored};

/// The file of an OS folder that holds the OS index.
pub const INDEX_FILE: &str = "os.json";
/// The file of an OS folder that holds the OS index with a section `firmware`; there on a board whose firmware is built here.
pub const INDEX_WITH_FIRMWARE: &str = "os-with-firmware.json";
/// The folder of an OS folder that holds the artifacts.
pub const ARTIFACTS: &str = "artifacts";

/// An operating system component in its folder.
#[derive(Clone, Debug)]
pub struct OsFolder {
    /// The OS index.
    pub index: OsIndex,
    /// The index as an artifact.
    pub stored: Stored,
    /// The index, the sections and their block lists.
    pub artifacts: Vec<ArtifactFile>,
}

/// A folder that holds no operating system component.
#[derive(Debug, thiserror::Error)]
pub enum OsFolderError {
    /// The index could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The index.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The index is not one.
    #[error("{path} is not an OS index")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        source: DocumentError,
    },
}

impl OsFolder {
    /// Reads the folder at `path` by its index called `name`; the artifacts themselves are not opened.
    pub fn load(path: &Path, name: &str) -> Result<Self, OsFolderError> {
        let file = path.join(name);
        let text = fs::read(&file).map_err(|source| OsFolderError::Read { path: file.clone(), source })?;
        let index = OsIndex::parse(&text).map_err(|source| OsFolderError::Index { path: file.clone(), source })?;
        let stored = Stored { digest: Digest::of(&text), size: text.len() as u64 };
        let mut artifacts = vec![ArtifactFile { stored, path: file }];
        for section in &index.sections {
            for (digest, size) in [(section.digest, section.size), (section.blocks.digest, section.blocks.size)] {
                let stored = Stored { digest, size };
                artifacts.push(ArtifactFile { stored, path: path.join(ARTIFACTS).join(digest.hex()) });
            }
        }
        Ok(Self { index, stored, artifacts })
    }
}

/// The section `name` whose content was stored before; its block list is stored beside it.
pub(crate) fn section(artifacts: &ArtifactFolder, name: SectionName, stored: Stored) -> Result<Section, ArtifactError> {
    let path = artifacts.path_of(&stored.digest);
    let list = fs::File::open(&path)
        .and_then(|file| artifacts::block_list(io::BufReader::with_capacity(1 << 20, file)))
        .map_err(|source| ArtifactError::Read { path, source })?;
    let blocks = artifacts.add_bytes(&list)?;
    let blocks = Blocks { digest: blocks.digest, size: blocks.size };
    Ok(Section { name, digest: stored.digest, size: stored.size, blocks })
}
