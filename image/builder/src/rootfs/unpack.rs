//! Reads packages into a tree: files, modes and owners as the package says, and none of its scripts.

use std::{collections::BTreeMap, io::Read, path::PathBuf, sync::Arc};

use super::tree::{Node, NodeKind, Tree, TreeError};
use crate::{
    command::CommandError,
    packages::{LockedPackage, PackageCache, deb::Deb},
};

/// A package that could not be read into a tree.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The package could not be opened.
    #[error("cannot open package `{package}`")]
    Command {
        /// The package.
        package: String,
        /// Why not.
        source: CommandError,
    },
    /// The tar inside is damaged.
    #[error("cannot read package `{package}`")]
    Read {
        /// The package.
        package: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Its files do not fit to those of others.
    #[error("cannot put the packages together")]
    Tree(#[from] TreeError),
}

/// Adds the files of `package` to `tree`; returns the time of its newest file.
pub(crate) fn unpack(cache: &PackageCache, package: &LockedPackage, tree: &mut Tree) -> Result<u64, UnpackError> {
    let command = |source| UnpackError::Command { package: package.name.clone(), source };
    let mut deb = Deb::open(&cache.file(package)).map_err(command)?;
    let newest = match deb.tar() {
        Some(tar) => add_tar(tar, &package.name, tree)?,
        None => 0,
    };
    deb.finish().map_err(command)?;
    Ok(newest)
}

fn add_tar(from: impl Read, package: &str, tree: &mut Tree) -> Result<u64, UnpackError> {
    let read = |source| UnpackError::Read { package: package.to_owned(), source };
    let owner: Arc<str> = package.into();
    let mut newest = 0;
    // Hard links name a file that came before in the same package.
    let mut files: BTreeMap<PathBuf, Arc<[u8]>> = BTreeMap::new();
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let header = entry.header().clone();
        newest = newest.max(header.mtime().map_err(read)?);
        let path = entry.path().map_err(read)?.into_owned();
        let bad_path = || TreeError::Path { path: path.clone(), owner: package.to_owned() };
        let place = Tree::place(&path).ok_or_else(bad_path)?;
        let link = entry.link_name().map_err(read)?.map(|to| to.into_owned());
        let kind = match (header.entry_type(), link) {
            (tar::EntryType::Directory, _) => NodeKind::Folder,
            (tar::EntryType::Symlink, Some(to)) => NodeKind::Link(to),
            (tar::EntryType::Link, Some(to)) => {
                let same = Tree::place(&to).and_then(|to| files.get(&to).cloned());
                NodeKind::File(same.ok_or(TreeError::Absent { path: to })?)
            }
            (tar::EntryType::Regular, _) => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(read)?;
                let bytes: Arc<[u8]> = bytes.into();
                files.insert(place.clone(), bytes.clone());
                NodeKind::File(bytes)
            }
            _ => return Err(TreeError::Special { path, owner: package.to_owned() }.into()),
        };
        let mode = header.mode().map_err(read)? & 0o7777;
        let (uid, gid) = (header.uid().map_err(read)?, header.gid().map_err(read)?);
        tree.add(&place, Node { kind, mode, uid, gid, owner: owner.clone() })?;
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn package(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(1_700_000_000);
            header.set_gid(42);
            header.set_uid(0);
            if *kind == tar::EntryType::Regular {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_bytes()).unwrap();
            } else {
                header.set_size(0);
                tar.append_link(&mut header, path, content).unwrap();
            }
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn files_keep_mode_and_group_and_hard_links_become_files() {
        let mut tree = Tree::default();
        let bytes = package(&[
            ("bin/su", tar::EntryType::Regular, "program"),
            ("bin/other", tar::EntryType::Link, "bin/su"),
            ("bin/link", tar::EntryType::Symlink, "su"),
        ]);
        assert_eq!(add_tar(&*bytes, "p", &mut tree).unwrap(), 1_700_000_000);
        let node = tree.get(Path::new("usr/bin/su")).unwrap();
        assert_eq!((node.mode, node.gid, &*node.owner), (0o4755, 42, "p"));
        assert_eq!(&*tree.read(Path::new("bin/other")).unwrap(), b"program");
        assert_eq!(&*tree.read(Path::new("bin/link")).unwrap(), b"program");
    }

    #[test]
    fn a_device_in_a_package_is_refused() {
        let bytes = package(&[("dev/null", tar::EntryType::Fifo, "x")]);
        let error = add_tar(&*bytes, "p", &mut Tree::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Tree(TreeError::Special { .. })), "{error}");
    }
}
