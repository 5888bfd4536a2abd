//! Checks a build as somebody would who did not make it: parts, budgets, disk, hash tree, and that every file has an owner.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use protocol_release::document::OsIndex;

use super::{
    build::{COMPONENT, DISK, Packages, signed_folder},
    description::Description,
    disk,
    error::{ImageError, file},
    manifest::{Manifest, part},
    report::{REPORT, Report},
    root_image::{ROOT, VERITY},
};
use crate::{os_folder::INDEX_FILE, packages::PackageCache, sandbox::Sandbox};

/// The report that stands beside the build in `folder`.
pub fn inspect(folder: &Path) -> Result<(Manifest, Report), ImageError> {
    let manifest = Manifest::load(folder)?;
    let path = folder.join(REPORT);
    let text = fs::read(&path).map_err(file("read", &path))?;
    let report = serde_json::from_slice(&text).map_err(|source| ImageError::Json { path, source })?;
    Ok((manifest, report))
}

/// Checks the build in `folder` against its description; returns the number of files whose owners were checked.
pub fn verify(cache: &PackageCache, description: &Description, folder: &Path) -> Result<usize, ImageError> {
    let (manifest, report) = inspect(folder)?;
    let broken = |rule: String| ImageError::Broken { path: folder.to_owned(), rule };
    if manifest.board != description.board.name {
        return Err(broken(format!("it is for board {}", manifest.board)));
    }
    for listed in &report.parts {
        let name = match listed.name.as_str() {
            "root" => ROOT,
            "verity" => VERITY,
            _ => super::uki::UKI,
        };
        let path = part(folder, name);
        let bytes = fs::metadata(&path).map_err(file("read", &path))?.len();
        if bytes != listed.bytes || listed.budget != Report::budget(description.budget(), &listed.name) {
            return Err(broken(format!("the report is of another `{}` or of another budget", listed.name)));
        }
    }
    report.check()?;
    let signed = signed_folder(folder);
    for form in [Some(folder), signed.exists().then_some(signed.as_path())].into_iter().flatten() {
        disk::check(&description.board, &form.join(DISK))?;
        check_component(&manifest, &form.join(COMPONENT))?;
    }
    let packages = Packages::choose(description)?;
    packages.fetch(cache)?;
    let tools = Sandbox::open(cache, &packages.tools, manifest.time)?;
    let scratch = cache.scratch()?;
    for name in [ROOT, VERITY] {
        let (from, to) = (part(folder, name), scratch.path().join(name));
        fs::copy(&from, &to).map_err(file("copy", &from))?;
    }
    tools
        .run(scratch.path(), "veritysetup", &["verify", ROOT, VERITY, &manifest.root_hash.hex()])
        .map_err(|source| ImageError::Tool { what: "check of the hash tree", source })?;
    tools
        .run(scratch.path(), "fsck.erofs", &["--extract=root", "--no-preserve", ROOT])
        .map_err(|source| ImageError::Tool { what: "list of the files", source })?;
    let there = paths(&scratch.path().join("root"))?;
    let owned: BTreeSet<PathBuf> =
        report.files.iter().filter(|file| !file.owner.is_empty()).map(|file| file.path.clone()).collect();
    match there.symmetric_difference(&owned).next() {
        Some(path) if owned.contains(path) => Err(broken(format!("`{}` is not in the image", path.display()))),
        Some(path) => Err(broken(format!("`{}` in the image has no owner", path.display()))),
        None => Ok(there.len()),
    }
}

/// Makes sure that the component in `folder` is there and of the build of `manifest`.
fn check_component(manifest: &Manifest, folder: &Path) -> Result<(), ImageError> {
    let path = folder.join(INDEX_FILE);
    let index = OsIndex::parse(&fs::read(&path).map_err(file("read", &path))?)?;
    let Manifest { board, version, root_hash, .. } = manifest;
    if (&index.board, &index.version, index.root_hash) == (board, version, Some(*root_hash)) {
        return Ok(());
    }
    let rule = format!("{INDEX_FILE} is of another build, {} for board {}", index.version, index.board);
    Err(ImageError::Broken { path: folder.to_owned(), rule })
}

/// Every path below `folder`.
fn paths(folder: &Path) -> Result<BTreeSet<PathBuf>, ImageError> {
    let (mut found, mut open) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).map_err(file("read", &at))? {
            let entry = entry.map_err(file("read", &at))?;
            let path = entry.path();
            if let Ok(inside) = path.strip_prefix(folder) {
                found.insert(inside.to_owned());
            }
            if entry.file_type().map_err(file("read", &path))?.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use protocol_types::Digest;

    use super::*;
    use crate::image::{component, manifest::tests::manifest};

    #[test]
    fn a_component_that_is_missing_or_of_another_build_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (built, os) = (manifest(), dir.path().join(COMPONENT));
        check_component(&built, &os).unwrap_err();
        let [root, verity, uki] = ["root", "verity", "uki"].map(|name| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        });
        component::make(&built, [&root, &verity, &uki], &os).unwrap();
        check_component(&built, &os).unwrap();
        let next = Manifest { version: "1.1.0".parse().unwrap(), ..built.clone() };
        let error = check_component(&next, &os).unwrap_err().to_string();
        assert!(error.contains("os.json is of another build, 1.0.0 for board board"), "{error}");
        let again = Manifest { root_hash: Digest::of(b"other"), ..built };
        check_component(&again, &os).unwrap_err();
    }
}
