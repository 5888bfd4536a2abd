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
