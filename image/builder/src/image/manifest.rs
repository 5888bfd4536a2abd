//! `image.json`: what a build is and the digest of each of its parts, so that a later step works on what was built and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use protocol_types::{BoardName, Digest, ReleaseVersion, SecurityVersion};
use serde::{Deserialize, Serialize};

use super::error::{ImageError, file};
use crate::{packages::digest_of, rootfs::ImageKind};

/// The name in the folder of a build.
pub const MANIFEST: &str = "image.json";
/// The folder of a build that holds its parts.
pub const PARTS: &str = "parts";

/// What a build is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this format: 1.
    pub format: u32,
    /// The board that it is for.
    pub board: BoardName,
    /// The kind of image.
    pub kind: ImageKind,
    /// The optional features that it has.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// Version of the operating system.
    pub version: ReleaseVersion,
    /// What the initrd holds against the device's floor.
    pub security_version: SecurityVersion,
    /// The root of the hash tree.
    pub root_hash: Digest,
    /// What `uname -r` says.
    pub kernel_release: String,
    /// The time of every file, in seconds since 1970: that of the newest file of all packages.
    pub time: u64,
    /// The digest of each part by file name.
    pub parts: BTreeMap<String, Digest>,
}

impl Manifest {
    /// Reads the manifest of the build in `folder` and makes sure that the parts are what it says.
    pub fn load(folder: &Path) -> Result<Self, ImageError> {
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).map_err(file("read", &path))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|source| ImageError::Json { path: path.clone(), source })?;
        let broken = |rule: String| Err(ImageError::Broken { path: folder.to_owned(), rule });
        if manifest.format != 1 {
            return broken(format!("format {} is not known, only format 1 is", manifest.format));
        }
        for (name, digest) in &manifest.parts {
            if name.contains('/') {
                return broken(format!("`{name}` is no file name"));
            }
            let part = part(folder, name);
            if digest_of(&part).map_err(file("read", &part))? != *digest {
                return broken(format!("{PARTS}/{name} is not what was built"));
            }
        }
        Ok(manifest)
    }
}

/// The path of a part of the build in `folder`.
pub(super) fn part(folder: &Path, name: &str) -> PathBuf {
    folder.join(PARTS).join(name)
}

/// Writes a value as JSON into `folder`.
pub(super) fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> Result<(), ImageError> {
    let path = folder.join(name);
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|source| ImageError::Json { path: path.clone(), source })?;
    text.push(b'\n');
    fs::write(&path, text).map_err(file("write", &path))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// That of a build whose one part is a kernel.
    pub(in crate::image) fn manifest() -> Manifest {
        Manifest {
            format: 1,
            board: BoardName::new("board").unwrap(),
            kind: ImageKind::Production,
            features: ["wifi".to_owned()].into(),
            version: "1.0.0".parse().unwrap(),
            security_version: SecurityVersion(1),
            root_hash: Digest::of(b"root"),
            kernel_release: "6.12".into(),
            time: 1,
            parts: [("kernel".to_owned(), Digest::of(b"kernel"))].into(),
        }
    }

    #[test]
    fn a_part_that_was_changed_after_the_build_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(PARTS)).unwrap();
        fs::write(part(dir.path(), "kernel"), b"kernel").unwrap();
        let manifest = manifest();
        write_json(dir.path(), MANIFEST, &manifest).unwrap();
        assert_eq!(Manifest::load(dir.path()).unwrap(), manifest);
        fs::write(part(dir.path(), "kernel"), b"changed").unwrap();
        let error = Manifest::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("parts/kernel is not what was built"), "{error}");
    }
}
