//! The account's metadata as its key holders keep it: a folder with the newest file of each offline role, which every new version
//! must follow. Never talks to the service, so a service that shows old files cannot make anybody sign on top of them.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use anyhow::Context as _;
use protocol_release::{
    metadata::{Delegate, root_file, targets_file},
    signing::{RootDraft, SignedFile, TargetsDraft},
};

use crate::{
    durable,
    failure::{Exit, Failure},
};

/// A folder of metadata files under their names in the repository.
#[derive(Clone, Debug)]
pub(crate) struct MetadataFolder {
    path: PathBuf,
}

/// A role whose files are signed offline, besides the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The releases.
    Targets,
    /// Components.
    Delegated(Delegate),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Targets => f.write_str("targets"),
            Self::Delegated(delegate) => delegate.fmt(f),
        }
    }
}

impl MetadataFolder {
    /// The folder at `path`, which need not exist yet.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Stores a file under its name; the same file again is no change, another one under the same name is refused.
    pub(crate) fn store(&self, file: &SignedFile) -> anyhow::Result<()> {
        let path = self.path.join(&file.name);
        match fs::read(&path) {
            Ok(there) if there == file.bytes => return Ok(()),
            Ok(_) => {
                return Err(Failure::new(Exit::Failed, format!("{} is there with other content", path.display()))
                    .hint("somebody signed another file of this version: create the release again")
                    .into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It may be another one.
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        self.replace(file)
    }

    /// Stores a file under its name, whatever was there.
    pub(crate) fn replace(&self, file: &SignedFile) -> anyhow::Result<()> {
        durable::write(&self.path.join(&file.name), &file.bytes)
    }

    /// Every file `VERSION.NAME.json`, by role name and version.
    pub(crate) fn files(&self) -> anyhow::Result<BTreeMap<(String, u64), SignedFile>> {
        let mut found = BTreeMap::new();
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            other => other.with_context(|| format!("cannot read {}", self.path.display()))?,
        };
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {}", self.path.display()))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Some((version, role)) = parse_name(name) else { continue };
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            found.insert((role.to_owned(), version), SignedFile { name: name.to_owned(), bytes });
        }
        Ok(found)
    }

    /// The roots, the first one first.
    pub(crate) fn roots(&self) -> anyhow::Result<Vec<SignedFile>> {
        let files = self.files()?;
        Ok(files.into_iter().filter(|((role, _), _)| role == "root").map(|(_, file)| file).collect())
    }

    /// The newest root.
    pub(crate) fn root(&self) -> anyhow::Result<SignedFile> {
        self.roots()?.pop().ok_or_else(|| self.empty())
    }

    /// The newest root as a draft of its successor.
    pub(crate) fn root_draft(&self) -> anyhow::Result<RootDraft> {
        let root = self.root()?;
        RootDraft::read(&root.bytes).with_context(|| format!("cannot read {}", root.name))
    }

    /// The newest file of a role and its version.
    pub(crate) fn newest(&self, role: &Role) -> anyhow::Result<Option<(u64, SignedFile)>> {
        let name = role.to_string();
        let files = self.files()?.into_iter().filter(|((role, _), _)| *role == name);
        Ok(files.map(|((_, version), file)| (version, file)).next_back())
    }

    /// What the newest file of a role says.
    pub(crate) fn draft(&self, role: &Role) -> anyhow::Result<TargetsDraft> {
        let (_, file) = self.newest(role)?.ok_or_else(|| self.empty())?;
        TargetsDraft::read(&file.bytes).with_context(|| format!("cannot read {}", file.name))
    }

    fn empty(&self) -> anyhow::Error {
        Failure::new(Exit::Failed, format!("{} holds no complete metadata", self.path.display()))
            .hint("make the first metadata with `mbl keys init`")
            .into()
    }
}

/// The name under which version `version` of a role is stored.
pub(crate) fn file_name(role: &Role, version: u64) -> String {
    targets_file(&role.to_string(), version)
}

/// `VERSION.ROLE.json` of an offline role.
fn parse_name(name: &str) -> Option<(u64, &str)> {
    let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
    let number: u64 = version.parse().ok()?;
    let known = matches!(role, "root" | "targets") || role.parse::<Delegate>().is_ok();
    (known && root_file(number) == format!("{version}.root.json")).then_some((number, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: &str) -> SignedFile {
        SignedFile { name: name.into(), bytes: bytes.into() }
    }

    #[test]
    fn the_newest_version_is_the_highest_number() {
        let dir = tempfile::tempdir().unwrap();
        let folder = MetadataFolder::at(dir.path().join("metadata"));
        for version in [2, 10, 9] {
            folder.store(&file(&format!("{version}.targets.json"), "x")).unwrap();
        }
        folder.store(&file("11.os.json", "x")).unwrap();
        assert_eq!(folder.newest(&Role::Targets).unwrap().unwrap().0, 10);
    }

    #[test]
    fn a_stored_version_is_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = MetadataFolder::at(dir.path().to_owned());
        folder.store(&file("1.targets.json", "one")).unwrap();
        folder.store(&file("1.targets.json", "one")).unwrap();
        assert!(folder.store(&file("1.targets.json", "two")).is_err());
    }

    #[test]
    fn a_stored_version_that_cannot_be_read_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = MetadataFolder::at(dir.path().to_owned());
        let path = dir.path().join("1.targets.json");
        std::os::unix::fs::symlink("1.targets.json", &path).unwrap();
        let refused = folder.store(&file("1.targets.json", "one")).unwrap_err();
        assert!(refused.to_string().contains("1.targets.json"), "{refused}");
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn other_files_are_not_metadata() {
        for name in
            ["timestamp.json", "01.targets.json", "1.snapshot.json", "1.app-X.json", ".1.targets.json.new", "x.json"]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
        assert_eq!(parse_name("3.app-hello.json"), Some((3, "app-hello")));
    }
}
