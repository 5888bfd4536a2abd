//! A tree as a tar archive with headers of our own, so that a plain user can build an image whose files belong to root.

use std::io::{self, Write};

use super::tree::{NodeKind, Tree};

/// Writes `tree` in the order of its paths; every time in it is `time`.
pub(crate) fn write(tree: &Tree, time: u64, to: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(time);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), "./", io::empty())?;
    for (path, node) in tree.iter() {
        let mut header = match &node.kind {
            NodeKind::Folder => header(tar::EntryType::Directory, node.mode, 0),
            NodeKind::File(bytes) => header(tar::EntryType::Regular, node.mode, bytes.len() as u64),
            NodeKind::Link(_) => header(tar::EntryType::Symlink, 0o777, 0),
        };
        header.set_uid(node.uid);
        header.set_gid(node.gid);
        match &node.kind {
            NodeKind::Folder => tar.append_data(&mut header, path, io::empty())?,
            NodeKind::File(bytes) => tar.append_data(&mut header, path, &**bytes)?,
            NodeKind::Link(to) => tar.append_link(&mut header, path, to)?,
        }
    }
    tar.finish()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::rootfs::tree::Node;

    #[test]
    fn the_order_of_building_does_not_show_and_owners_and_times_are_as_given() {
        let owner = "test".into();
        let nodes = [
            ("b", Node { mode: 0o640, gid: 42, ..Node::file(*b"secret", 0, &owner) }),
            ("a", Node::folder(&owner)),
            ("a/link", Node::link("../b", &owner)),
        ];
        let archive = |order: [usize; 3]| {
            let mut tree = Tree::default();
            for at in order {
                let (path, node) = nodes[at].clone();
                tree.replace(Path::new(path), node);
            }
            let mut bytes = Vec::new();
            write(&tree, 7, &mut bytes).unwrap();
            bytes
        };
        let bytes = archive([0, 1, 2]);
        assert_eq!(bytes, archive([2, 1, 0]));
        let mut read = tar::Archive::new(&*bytes);
        let headers: Vec<_> = read.entries().unwrap().map(|entry| entry.unwrap().header().clone()).collect();
        assert!(headers.iter().all(|header| header.mtime().unwrap() == 7 && header.uid().unwrap() == 0));
        let secret = headers.iter().find(|header| header.path().unwrap() == Path::new("b")).unwrap();
        assert_eq!((secret.mode().unwrap(), secret.gid().unwrap()), (0o640, 42));
    }
}
