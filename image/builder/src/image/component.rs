//! The operating system component of a build: root, hash tree and unified kernel image as sections of an OS index, in the folder
//! that `mbl release create` takes.

use std::{fs, path::Path};

use protocol_release::document::{FormatOne, OsIndex, SectionName};

use super::{
    error::{ImageError, file},
    manifest::Manifest,
};
use crate::{
    artifacts::ArtifactFolder,
    os_folder::{self, ARTIFACTS, INDEX_FILE},
};

/// Writes the component into `out`, which is replaced.
pub(super) fn make(manifest: &Manifest, [root, verity, uki]: [&Path; 3], out: &Path) -> Result<(), ImageError> {
    if out.exists() {
        fs::remove_dir_all(out).map_err(file("replace", out))?;
    }
    let artifacts = ArtifactFolder::create(out.join(ARTIFACTS))?;
    let mut sections = Vec::new();
    for (name, path) in [(SectionName::Root, root), (SectionName::Verity, verity), (SectionName::Uki, uki)] {
        sections.push(os_folder::section(&artifacts, name, artifacts.add_file(path)?)?);
    }
    let (board, version) = (manifest.board.clone(), manifest.version.clone());
    let text =
        OsIndex { format: FormatOne, board, version, root_hash: Some(manifest.root_hash), sections }.to_bytes()?;
    artifacts.add_bytes(&text)?;
    let path = out.join(INDEX_FILE);
    fs::write(&path, text).map_err(file("write", &path))
}
