//! The archive format `newc` that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::os::unix::ffi::OsStrExt;

use crate::rootfs::tree::{NodeKind, Tree};

/// The archive of `tree`, in the order of its paths.
pub(super) fn archive(tree: &Tree, time: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, (path, node)) in (1_u32..).zip(tree.iter()) {
        let (format, content) = match &node.kind {
            NodeKind::Folder => (0o040_000, &[][..]),
            NodeKind::File(content) => (0o100_000, &**content),
            NodeKind::Link(to) => (0o120_000, to.as_os_str().as_bytes()),
        };
        entry(&mut bytes, path.as_os_str().as_bytes(), [number, format | node.mode, time], content);
    }
    entry(&mut bytes, b"TRAILER!!!", [0; 3], b"");
    bytes
}

/// One entry: a header of hexadecimal numbers, the name, the content, each at a multiple of four. All belongs to root.
fn entry(to: &mut Vec<u8>, name: &[u8], [number, mode, time]: [u32; 3], content: &[u8]) {
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    to.extend_from_slice(b"070701");
    for field in [number, mode, 0, 0, 1, time, size, 0, 0, 0, 0, name_size, 0] {
        to.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    to.extend_from_slice(name);
    to.push(0);
    pad(to);
    to.extend_from_slice(content);
    pad(to);
}

fn pad(to: &mut Vec<u8>) {
    to.resize(to.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        path::Path,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::rootfs::tree::Node;

    #[test]
    fn another_program_reads_the_archive() {
        let mut tree = Tree::default();
        let owner = "test".into();
        tree.replace(Path::new("dir"), Node::folder(&owner));
        tree.replace(Path::new("dir/file"), Node::file(*b"hello", 0o640, &owner));
        tree.replace(Path::new("link"), Node::link("dir/file", &owner));
        let bytes = archive(&tree, 86_400);
        // Python's standard library has no cpio; the kernel's own documentation names this program.
        let Ok(mut cpio) = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            return;
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let said = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        assert!(said.contains("-rw-r-----   1 0        0               5"), "{said}");
        assert!(said.contains("link -> dir/file"), "{said}");
    }
}
