//! What changes from one build to another: packages, files, sizes, and how much of the new image a device with the old one lacks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    check::inspect,
    error::{ImageError, file},
    manifest::{Manifest, part},
    report::{OwnedFile, Report},
    root_image::{ROOT, VERITY},
    uki::UKI,
};
use crate::artifacts::block_list;

/// What changes from one build to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Facts of the whole image that differ, by name.
    pub facts: BTreeMap<&'static str, Change<String>>,
    /// Versions of packages; none on the side that lacks the package.
    pub packages: BTreeMap<String, Change<Option<String>>>,
    /// Paths of the root file system that are new, gone or of other content.
    pub files: BTreeMap<PathBuf, FileChange>,
    /// Bytes of each part.
    pub sizes: BTreeMap<String, Change<u64>>,
    /// Bytes of the new parts, in blocks of 4096, that no part of the old image has anywhere.
    pub new_bytes: u64,
    /// Bytes of the new parts.
    pub all_bytes: u64,
}

/// A value in the old and in the new build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// In the old build.
    pub old: T,
    /// In the new build.
    pub new: T,
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileChange {
    /// Only the new image has it.
    Added,
    /// Its content differs.
    Changed,
    /// Only the old image has it.
    Removed,
}

const BLOCK: u64 = protocol_release::document::BLOCK_BYTES;
/// SHA-256.
const DIGEST: usize = 32;

/// Compares the builds in the folders `old` and `new`.
pub fn diff(old: &Path, new: &Path) -> Result<Difference, ImageError> {
    let ((old_manifest, old_report), (new_manifest, new_report)) = (inspect(old)?, inspect(new)?);
    let (mut there, mut lacking, mut blocks) = (BTreeSet::new(), 0, 0);
    for name in [ROOT, VERITY, UKI] {
        there.extend(block_digests(&part(old, name))?);
    }
    for name in [ROOT, VERITY, UKI] {
        let list = block_digests(&part(new, name))?;
        lacking += list.iter().filter(|digest| !there.contains(*digest)).count() as u64;
        blocks += list.len() as u64;
    }
    Ok(Difference {
        facts: facts(&old_manifest, &new_manifest),
        packages: changes(versions(&old_report), versions(&new_report)),
        files: files(&old_report, &new_report),
        sizes: sizes(&old_report, &new_report),
        new_bytes: lacking * BLOCK,
        all_bytes: blocks * BLOCK,
    })
}

fn block_digests(path: &Path) -> Result<Vec<Vec<u8>>, ImageError> {
    let list = File::open(path).and_then(|it| block_list(std::io::BufReader::new(it))).map_err(file("read", path))?;
    Ok(list.chunks(DIGEST).map(<[u8]>::to_vec).collect())
}

fn facts(old: &Manifest, new: &Manifest) -> BTreeMap<&'static str, Change<String>> {
    let of = |it: &Manifest| {
        let security_version = it.security_version.to_string();
        let (board, kind, version) = (it.board.to_string(), it.kind.as_str().to_owned(), it.version.to_string());
        let (kernel, root_hash) = (it.kernel_release.clone(), it.root_hash.hex());
        let features: Vec<&str> = it.features.iter().map(String::as_str).collect();
        BTreeMap::from([
            ("board", board),
            ("kind", kind),
            ("features", features.join(" ")),
            ("version", version),
            ("security version", security_version),
            ("kernel", kernel),
            ("root hash", root_hash),
        ])
    };
    let mut new = of(new);
    let pairs = of(old).into_iter().filter_map(|(name, old)| Some((name, Change { old, new: new.remove(name)? })));
    pairs.filter(|(_, change)| change.old != change.new).collect()
}

fn versions(report: &Report) -> BTreeMap<String, String> {
    let packages = report.owners.iter().filter_map(|share| Some((share.owner.clone(), share.version.clone()?)));
    packages.collect()
}

/// Where two maps differ.
fn changes(
    mut old: BTreeMap<String, String>,
    new: BTreeMap<String, String>,
) -> BTreeMap<String, Change<Option<String>>> {
    let mut changed = BTreeMap::new();
    for (name, new) in new {
        let old = old.remove(&name);
        if old.as_ref() != Some(&new) {
            changed.insert(name, Change { old, new: Some(new) });
        }
    }
    changed.extend(old.into_iter().map(|(name, old)| (name, Change { old: Some(old), new: None })));
    changed
}

fn files(old: &Report, new: &Report) -> BTreeMap<PathBuf, FileChange> {
    let by_path = |report: &Report| -> BTreeMap<PathBuf, OwnedFile> {
        report.files.iter().map(|file| (file.path.clone(), file.clone())).collect()
    };
    let mut old = by_path(old);
    let mut changed = BTreeMap::new();
    for (path, new) in by_path(new) {
        match old.remove(&path) {
            None => drop(changed.insert(path, FileChange::Added)),
            Some(old) if old.digest != new.digest => drop(changed.insert(path, FileChange::Changed)),
            Some(_) => {}
        }
    }
    changed.extend(old.into_keys().map(|path| (path, FileChange::Removed)));
    changed
}

fn sizes(old: &Report, new: &Report) -> BTreeMap<String, Change<u64>> {
    let of = |report: &Report| -> BTreeMap<String, u64> {
        let parts = report.parts.iter().map(|part| (part.name.clone(), part.bytes));
        parts.chain([("download".to_owned(), report.download)]).collect()
    };
    let new = of(new);
    let pairs =
        of(old).into_iter().filter_map(|(name, old)| Some((name.clone(), Change { old, new: *new.get(&name)? })));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use protocol_types::Digest;

    use super::*;

    fn report(files: &[(&str, Option<&str>)]) -> Report {
        let file = |(path, content): &(&str, Option<&str>)| OwnedFile {
            path: path.into(),
            owner: "a".into(),
            bytes: content.map(|text| text.len() as u64),
            digest: content.map(|text| Digest::of(text.as_bytes())),
        };
        let files = files.iter().map(file).collect();
        Report { parts: vec![], download: 1, download_budget: 1, allowances: vec![], owners: vec![], files }
    }

    #[test]
    fn a_file_is_added_changed_removed_or_as_it_was() {
        let old = report(&[("same", Some("1")), ("changed", Some("1")), ("gone", None), ("link", None)]);
        let new = report(&[("same", Some("1")), ("changed", Some("2")), ("new", Some("")), ("link", None)]);
        let expected = [("changed", FileChange::Changed), ("gone", FileChange::Removed), ("new", FileChange::Added)];
        assert_eq!(files(&old, &new), expected.map(|(path, change)| (path.into(), change)).into());
    }

    #[test]
    fn packages_come_go_and_change_their_version() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let changed = changes(map(&[("a", "1"), ("b", "1"), ("c", "1")]), map(&[("a", "1"), ("b", "2"), ("d", "1")]));
        let change =
            |old: Option<&str>, new: Option<&str>| Change { old: old.map(str::to_owned), new: new.map(str::to_owned) };
        let expected =
            [("b", change(Some("1"), Some("2"))), ("c", change(Some("1"), None)), ("d", change(None, Some("1")))];
        assert_eq!(changed, expected.map(|(name, change)| (name.to_owned(), change)).into());
    }
}
