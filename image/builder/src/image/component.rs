//! The operating system component of a build: root, hash tree and unified kernel image as sections of an OS index, in the folder
//! that `mbl release create` takes. Firmware that is built here gets an index of its own beside it, for a release that brings it too.

use std::{fs, path::Path};

use protocol_release::document::{FormatOne, OsIndex, SectionName};

use super::{
    error::{ImageError, file},
    manifest::Manifest,
};
use crate::{
    artifacts::ArtifactFolder,
    os_folder::{self, ARTIFACTS, INDEX_FILE, INDEX_WITH_FIRMWARE},
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
    write(
        &OsIndex { format: FormatOne, board, version, root_hash: Some(manifest.root_hash), sections },
        INDEX_FILE,
        out,
    )
}

/// Adds to the component in `out` an index that has the firmware image package in `package`, too.
pub(super) fn add_firmware(package: &Path, out: &Path) -> Result<(), ImageError> {
    let path = out.join(INDEX_FILE);
    let text = fs::read(&path).map_err(file("read", &path))?;
    let mut index = OsIndex::parse(&text)?;
    let artifacts = ArtifactFolder::create(out.join(ARTIFACTS))?;
    index.sections.push(os_folder::section(&artifacts, SectionName::Firmware, artifacts.add_file(package)?)?);
    write(&index, INDEX_WITH_FIRMWARE, out)
}

fn write(index: &OsIndex, name: &str, out: &Path) -> Result<(), ImageError> {
    let text = index.to_bytes()?;
    ArtifactFolder::create(out.join(ARTIFACTS))?.add_bytes(&text)?;
    let path = out.join(name);
    fs::write(&path, text).map_err(file("write", &path))
}
