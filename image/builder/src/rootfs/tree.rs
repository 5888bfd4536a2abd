//! The files of an image in memory, each with its owner: the package or the part of the recipe that it comes from. Never touches
//! a disk, so the builder's own user, umask and clock cannot show in an image.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// The files of an image by path, relative to its root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

/// What stands at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Who brought it.
    pub(crate) owner: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Folder,
    File(Arc<[u8]>),
    Link(PathBuf),
}

/// A tree that cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Two packages bring different files of one name.
    #[error("`{}` comes from both `{first}` and `{second}`", path.display())]
    Conflict {
        /// The file.
        path: PathBuf,
        /// Who brought it first.
        first: String,
        /// Who brought it again.
        second: String,
    },
    /// A path leaves the tree.
    #[error("`{}` of `{owner}` is not a path inside the image", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Who brought it.
        owner: String,
    },
    /// A device, socket or pipe.
    #[error("`{}` of `{owner}` is neither file, folder nor link", path.display())]
    Special {
        /// The path.
        path: PathBuf,
        /// Who brought it.
        owner: String,
    },
    /// A file that is needed is not there.
    #[error("there is no `{}` in the image", path.display())]
    Absent {
        /// The path.
        path: PathBuf,
    },
}

/// Debian's merged `/usr`: what a package puts into `/bin` is in `/usr/bin`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

impl Node {
    pub(crate) fn folder(owner: &Arc<str>) -> Self {
        Self { kind: NodeKind::Folder, mode: 0o755, uid: 0, gid: 0, owner: owner.clone() }
    }

    pub(crate) fn file(content: impl Into<Arc<[u8]>>, mode: u32, owner: &Arc<str>) -> Self {
        Self { kind: NodeKind::File(content.into()), mode, uid: 0, gid: 0, owner: owner.clone() }
    }

    pub(crate) fn link(to: impl Into<PathBuf>, owner: &Arc<str>) -> Self {
        Self { kind: NodeKind::Link(to.into()), mode: 0o777, uid: 0, gid: 0, owner: owner.clone() }
    }
}

impl Tree {
    /// The path inside the tree; `None` for its root and for a path that leaves it.
    pub(crate) fn place(path: &Path) -> Option<PathBuf> {
        let mut place = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => place.push(name),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return None,
            }
        }
        let merged = place.components().count() > 1
            && place.components().next().is_some_and(|first| MERGED.iter().any(|name| first.as_os_str() == *name));
        Some(if merged { Path::new("usr").join(place) } else { place })
    }

    /// Adds what a package brings; two packages may share folders only.
    pub(crate) fn add(&mut self, path: &Path, node: Node) -> Result<(), TreeError> {
        let Some(place) = Self::place(path).filter(|place| !place.as_os_str().is_empty()) else {
            return Ok(());
        };
        match self.nodes.get(&place) {
            Some(there) if there.kind == NodeKind::Folder && node.kind == NodeKind::Folder => Ok(()),
            // A package that still brings `/lib` as a folder means the link.
            Some(there) if node.kind == NodeKind::Folder && matches!(there.kind, NodeKind::Link(_)) => Ok(()),
            Some(there) if there.kind == node.kind => Ok(()),
            Some(there) => {
                Err(TreeError::Conflict { path: place, first: there.owner.to_string(), second: node.owner.to_string() })
            }
            None => {
                self.nodes.insert(place, node);
                Ok(())
            }
        }
    }

    /// Puts a node in place of whatever is there.
    pub(crate) fn replace(&mut self, path: &Path, node: Node) {
        if let Some(place) = Self::place(path) {
            self.nodes.insert(place, node);
        }
    }

    /// Adds every folder that something lies in and that nobody brought.
    pub(crate) fn add_parents(&mut self, owner: &Arc<str>) {
        let missing: Vec<PathBuf> = self
            .nodes
            .keys()
            .flat_map(|path| path.ancestors().skip(1))
            .filter(|above| !above.as_os_str().is_empty() && !self.nodes.contains_key(*above))
            .map(Path::to_owned)
            .collect();
        for path in missing {
            self.nodes.insert(path, Node::folder(owner));
        }
    }

    /// Takes out what `pattern` covers and everything below.
    pub(crate) fn prune(&mut self, pattern: &str) {
        let parts: Vec<&str> = pattern.split('/').collect();
        self.nodes.retain(|path, _| {
            let mut names = path.components();
            let covered = parts
                .iter()
                .all(|part| names.next().is_some_and(|name| covers(part, &name.as_os_str().to_string_lossy())));
            !covered
        });
    }

    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_path(), node))
    }

    /// The bytes of the file at `path`, through links.
    pub(crate) fn read(&self, path: &Path) -> Result<Arc<[u8]>, TreeError> {
        let absent = || TreeError::Absent { path: path.to_owned() };
        let mut place = Self::place(path).ok_or_else(absent)?;
        for _ in 0..16 {
            match self.nodes.get(&place).map(|node| &node.kind) {
                Some(NodeKind::File(bytes)) => return Ok(bytes.clone()),
                Some(NodeKind::Link(to)) => {
                    let from = place.parent().unwrap_or(Path::new(""));
                    place = Self::place(&resolved(from, to)).ok_or_else(absent)?;
                }
                Some(NodeKind::Folder) | None => return Err(absent()),
            }
        }
        Err(absent())
    }
}

/// Where a link in the folder `from` leads, without `..` in it.
fn resolved(from: &Path, to: &Path) -> PathBuf {
    let mut place = if to.is_absolute() { PathBuf::new() } else { from.to_owned() };
    for part in to.components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => drop(place.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    place
}

/// Whether `name` is what `pattern` says, `*` being any characters.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).filter_map(|at| rest.get(at..)).any(|rest| covers(after, rest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn packages_share_folders_but_no_files() {
        let mut tree = Tree::default();
        let file = |content: &str, by| Node::file(content.as_bytes(), 0o644, &owner(by));
        tree.add(Path::new("./usr/bin"), Node::folder(&owner("a"))).unwrap();
        tree.add(Path::new("./usr/bin"), Node::folder(&owner("b"))).unwrap();
        tree.add(Path::new("./bin/tool"), file("1", "a")).unwrap();
        assert!(tree.get(Path::new("usr/bin/tool")).is_some(), "`/bin` is `/usr/bin`");
        let error = tree.add(Path::new("usr/bin/tool"), file("2", "b")).unwrap_err().to_string();
        assert_eq!(error, "`usr/bin/tool` comes from both `a` and `b`");
    }

    #[test]
    fn a_pattern_takes_a_folder_and_all_below() {
        let mut tree = Tree::default();
        for path in ["usr/lib/x/gconv/a", "usr/lib/y/gconv", "usr/lib/gconv", "usr/lib/x/gconvert"] {
            tree.replace(Path::new(path), Node::file(*b"", 0o644, &owner("a")));
        }
        tree.prune("usr/lib/*/gconv");
        let left: Vec<_> = tree.iter().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(left, [Path::new("usr/lib/gconv"), Path::new("usr/lib/x/gconvert")]);
    }

    #[test]
    fn a_file_is_read_through_links_and_a_circle_ends() {
        let mut tree = Tree::default();
        let by = owner("a");
        tree.replace(Path::new("usr/lib/l.so.1.2"), Node::file(*b"library", 0o644, &by));
        tree.replace(Path::new("usr/lib/l.so.1"), Node::link("l.so.1.2", &by));
        tree.replace(Path::new("etc/l"), Node::link("../lib/l.so.1", &by));
        tree.replace(Path::new("etc/circle"), Node::link("/etc/circle", &by));
        assert_eq!(&*tree.read(Path::new("etc/l")).unwrap(), b"library");
        assert!(tree.read(Path::new("etc/circle")).is_err());
        assert!(tree.read(Path::new("../etc/l")).is_err());
    }
}
