//! A built application image as it lies in its folder. Reading it back trusts nothing but digests.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use protocol_types::{Digest, DigestError};

use super::{AppFacts, BLOBS, FACTS_FILE};
use crate::artifacts::{ArtifactFile, Stored};

/// An application image in its folder.
#[derive(Clone, Debug)]
pub struct AppLayout {
    /// What a release says about it besides its image.
    pub facts: AppFacts,
    /// The image index as an artifact.
    pub stored: Stored,
    /// The index and every blob that follows from it.
    pub artifacts: Vec<ArtifactFile>,
}

/// A folder that holds no application image.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The facts are not in their form.
    #[error("{path} does not say what a release needs to know")]
    Facts {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A document is not one of an OCI image.
    #[error("{path} is not a document of an OCI image")]
    Document {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: oci_spec::OciSpecError,
    },
    /// A digest of another algorithm.
    #[error("{path} names a blob by another digest than SHA-256")]
    Digest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DigestError,
    },
}

impl AppLayout {
    /// Reads the image layout at `path`; layers are not opened.
    pub fn load(path: &Path) -> Result<Self, LayoutError> {
        let read = |path: &Path| fs::read(path).map_err(|source| LayoutError::Read { path: path.to_owned(), source });
        let document = |path: &Path| {
            let path = path.to_owned();
            move |source| LayoutError::Document { path, source }
        };
        let file = path.join(FACTS_FILE);
        let facts =
            serde_json::from_slice(&read(&file)?).map_err(|source| LayoutError::Facts { path: file, source })?;
        let file = path.join("index.json");
        let text = read(&file)?;
        let index = ImageIndex::from_reader(&*text).map_err(document(&file))?;
        let stored = Stored { digest: Digest::of(&text), size: text.len() as u64 };
        let mut artifacts = vec![ArtifactFile { stored, path: file.clone() }];
        for manifest in index.manifests() {
            let manifest = blob(path, &file, manifest)?;
            let parsed = ImageManifest::from_reader(&*read(&manifest.path)?).map_err(document(&manifest.path))?;
            for descriptor in [parsed.config()].into_iter().chain(parsed.layers()) {
                artifacts.push(blob(path, &manifest.path, descriptor)?);
            }
            artifacts.push(manifest);
        }
        Ok(Self { facts, stored, artifacts })
    }
}

/// The file of a blob that `named_in` names.
fn blob(layout: &Path, named_in: &Path, descriptor: &Descriptor) -> Result<ArtifactFile, LayoutError> {
    let digest: Digest = descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|source| LayoutError::Digest { path: named_in.to_owned(), source })?;
    let stored = Stored { digest, size: descriptor.size() };
    Ok(ArtifactFile { stored, path: layout.join(BLOBS).join(digest.hex()) })
}
