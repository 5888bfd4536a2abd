//! What an image needs and why: bytes by part and by package, and the owner of every file. Shown at each build and kept beside it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use protocol_types::Digest;
use serde::{Deserialize, Serialize};

use super::error::ImageError;
use crate::{
    board::Budget,
    packages::Chosen,
    rootfs::{
        Allowance,
        tree::{NodeKind, Tree},
    },
};

/// The name in the folder of a build.
pub const REPORT: &str = "report.json";

/// What an image needs and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What is sent to a device.
    pub parts: Vec<Part>,
    /// All parts together, compressed for the way to a device.
    pub download: u64,
    /// What the board and the optional features allow for that.
    pub download_budget: u64,
    /// How much of the budgets the optional features of the image have brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowances: Vec<FeatureAllowance>,
    /// Who brought what into the root file system, the largest first.
    pub owners: Vec<OwnerShare>,
    /// The files of the root file system.
    pub files: Vec<OwnedFile>,
}

/// One part of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its length compressed.
    pub download: u64,
    /// What the board and the optional features allow for the length.
    pub budget: u64,
}

/// What an optional feature of the image added to the board's budgets, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureAllowance {
    /// The feature.
    pub feature: String,
    /// To that of the root file system.
    pub root: u64,
    /// To that of the download.
    pub download: u64,
}

impl From<(&str, Allowance)> for FeatureAllowance {
    fn from((feature, allowance): (&str, Allowance)) -> Self {
        let feature = feature.to_owned();
        Self { feature, root: allowance.root_mib << 20, download: allowance.download_mib << 20 }
    }
}

/// What one package, or one part of the recipe, brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerShare {
    /// The package, or `feature NAME`, or `image-builder`.
    pub owner: String,
    /// The package's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The reason in the recipe, or the package that needs it.
    pub why: String,
    /// Bytes of its files, uncompressed.
    pub bytes: u64,
    /// Number of its files and links.
    pub files: u64,
}

/// One path of the root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedFile {
    /// The path without a slash in front.
    pub path: PathBuf,
    /// Who brought it.
    pub owner: String,
    /// Its length; none for folders and links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The SHA-256 of its content, or of where a link leads; none for folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// How the owner of what a feature of the recipe adds begins.
const FEATURE: &str = "feature ";
/// The level at which the size on the way to a device is measured: what one can afford for each release.
const LEVEL: i32 = 12;
/// Artifacts travel as independent frames of this many bytes.
const FRAME: usize = 1 << 20;

/// Who brought what, with reasons.
pub(super) fn owners(
    tree: &Tree,
    chosen: &BTreeMap<&str, Chosen<'_>>,
    reasons: &BTreeMap<&str, &str>,
) -> (Vec<OwnerShare>, Vec<OwnedFile>) {
    let mut shares: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    // A package that brings nothing but documentation is there, too.
    for name in chosen.keys() {
        shares.entry(name).or_default();
    }
    let mut files = Vec::new();
    for (path, node) in tree.iter() {
        let bytes = match &node.kind {
            NodeKind::File(content) => Some(content.len() as u64),
            NodeKind::Folder | NodeKind::Link(_) => None,
        };
        let digest = match &node.kind {
            NodeKind::File(content) => Some(Digest::of(content)),
            NodeKind::Link(to) => Some(Digest::of(to.as_os_str().as_bytes())),
            NodeKind::Folder => None,
        };
        files.push(OwnedFile { path: path.to_owned(), owner: node.owner.to_string(), bytes, digest });
        if node.kind != NodeKind::Folder {
            let share = shares.entry(&node.owner).or_default();
            *share = (share.0 + bytes.unwrap_or_default(), share.1 + 1);
        }
    }
    let share = |(owner, (bytes, files)): (&str, (u64, u64))| {
        let package = chosen.get(owner);
        let why = match (reasons.get(owner), package.and_then(|chosen| chosen.needed_by)) {
            (Some(reason), _) => (*reason).to_owned(),
            (None, Some(by)) => format!("needed by {by}"),
            (None, None) if owner.starts_with(FEATURE) => "programs, files and settings of the recipe".to_owned(),
            (None, None) => "written by the builder".to_owned(),
        };
        let version = package.map(|chosen| chosen.package.version.clone());
        OwnerShare { owner: owner.to_owned(), version, why, bytes, files }
    };
    let mut shares: Vec<OwnerShare> = shares.into_iter().map(share).collect();
    shares.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.owner.cmp(&b.owner)));
    (shares, files)
}

/// How many bytes a file has on the way to a device.
pub(super) fn download_size(path: &Path) -> io::Result<u64> {
    let (mut from, mut total) = (File::open(path)?, 0);
    let mut frame = Vec::with_capacity(FRAME);
    loop {
        frame.clear();
        if Read::by_ref(&mut from).take(FRAME as u64).read_to_end(&mut frame)? == 0 {
            return Ok(total);
        }
        total += zstd::encode_all(&*frame, LEVEL)?.len() as u64;
    }
}

impl Report {
    /// The budget of a part by name.
    pub(super) fn budget(budget: Budget, part: &str) -> u64 {
        let mib = match part {
            "root" => budget.root_mib,
            "verity" => budget.verity_mib,
            _ => budget.uki_mib,
        };
        mib << 20
    }

    /// Refuses an image that needs more than the board allows.
    pub fn check(&self) -> Result<(), ImageError> {
        for part in &self.parts {
            if part.bytes > part.budget {
                let name = match part.name.as_str() {
                    "root" => "root file system",
                    "verity" => "hash tree",
                    _ => "unified kernel image",
                };
                return Err(ImageError::Budget { part: name, needs: part.bytes, allows: part.budget });
            }
        }
        if self.download > self.download_budget {
            return Err(ImageError::Budget { part: "download", needs: self.download, allows: self.download_budget });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_above_its_budget_is_refused_by_the_part() {
        let part = |name: &str, bytes| Part { name: name.into(), bytes, download: 1, budget: 10 };
        let report = |root, download| Report {
            parts: vec![part("root", root), part("uki", 10)],
            download,
            download_budget: 5,
            allowances: vec![],
            owners: vec![],
            files: vec![],
        };
        report(10, 5).check().unwrap();
        let error = report(11, 5).check().unwrap_err().to_string();
        assert!(error.starts_with("the root file system needs 11 bytes, but the board's budget is 10"), "{error}");
        assert!(report(10, 6).check().unwrap_err().to_string().starts_with("the download needs 6"));
    }
}
