//! A release in the making: a folder with the release document, the metadata to sign and every artifact. Never talks to the
//! service, so that it can be carried to the machine with the keys and back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use image_builder::artifacts::ArtifactFile;
use protocol_release::{document::Release, signing::SignedFile};
use protocol_types::{Digest, TargetPath};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Exit, Failure},
    repository::MetadataFolder,
};

const RELEASE: &str = "release.json";
const WISH: &str = "wish.json";
const METADATA: &str = "metadata";
const ARTIFACTS: &str = "artifacts";

/// Which release a device that reads an exported folder shall install.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    /// Target path of the release.
    pub(crate) release: TargetPath,
    /// Digest of the release document.
    pub(crate) digest: Digest,
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct ReleaseFolder {
    path: PathBuf,
}

impl ReleaseFolder {
    /// Makes the folder; one that is there and not empty is refused.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::new(Exit::Failed, format!("{} is not empty", path.display()))
                .hint("choose another folder with `--out`; a release is immutable")
                .into());
        }
        for folder in [METADATA, ARTIFACTS] {
            fs::create_dir_all(path.join(folder)).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The folder of a release that was created before.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if !path.join(RELEASE).is_file() {
            return Err(Failure::new(Exit::Failed, format!("{} holds no release", path.display()))
                .hint(format!("make one with `mbl release create --out {}`", path.display()))
                .into());
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The metadata to sign or signed.
    pub(crate) fn metadata(&self) -> MetadataFolder {
        MetadataFolder::at(self.path.join(METADATA))
    }

    /// Stores the release document, as an artifact too, and the wish for it.
    pub(crate) fn write_release(&self, release: &Release) -> anyhow::Result<Wish> {
        let text = release.to_bytes()?;
        let wish = Wish { release: release.target_path()?, digest: Digest::of(&text) };
        self.write(&format!("{ARTIFACTS}/{}", wish.digest.hex()), &text)?;
        self.write(WISH, &serde_json::to_vec_pretty(&wish)?)?;
        // Last: its presence makes the folder a release.
        self.write(RELEASE, &text)?;
        Ok(wish)
    }

    /// The release document.
    pub(crate) fn release(&self) -> anyhow::Result<Release> {
        let path = self.path.join(RELEASE);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Release::parse(&text).with_context(|| format!("{} is not a release document", path.display()))
    }

    /// The wish for the release.
    pub(crate) fn wish(&self) -> anyhow::Result<Wish> {
        let path = self.path.join(WISH);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} does not name a release", path.display()))
    }

    /// Takes a built artifact into the folder.
    pub(crate) fn add_artifact(&self, artifact: &ArtifactFile) -> anyhow::Result<()> {
        let path = &artifact.path;
        let length = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        anyhow::ensure!(length == artifact.stored.size, "{} has another length than its index says", path.display());
        self.take(&artifact.stored.digest, path)
    }

    /// Takes a file into the folder under its digest, by a hard link where the file system allows it.
    pub(crate) fn take(&self, digest: &Digest, from: &Path) -> anyhow::Result<()> {
        let to = self.path.join(ARTIFACTS).join(digest.hex());
        if !to.exists() && fs::hard_link(from, &to).is_err() {
            fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    /// Stores an artifact that is in memory.
    pub(crate) fn add_bytes(&self, bytes: &[u8]) -> anyhow::Result<Digest> {
        let digest = Digest::of(bytes);
        self.write(&format!("{ARTIFACTS}/{}", digest.hex()), bytes)?;
        Ok(digest)
    }

    /// Every artifact in the folder.
    pub(crate) fn artifacts(&self) -> anyhow::Result<Vec<(Digest, PathBuf)>> {
        let folder = self.path.join(ARTIFACTS);
        let read = || format!("cannot read {}", folder.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).with_context(read)? {
            let path = entry.with_context(read)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Ok(digest) = Digest::from_hex(name) {
                found.push((digest, path));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Stores a metadata file over the one that is there.
    pub(crate) fn replace_metadata(&self, file: &SignedFile) -> anyhow::Result<()> {
        self.metadata().replace(file)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}
