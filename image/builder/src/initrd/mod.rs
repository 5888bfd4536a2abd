//! The initrd: our own first program, the few programs that it starts, the libraries that those need, and kernel modules. No shell
//! and no interpreter of any language.

mod cpio;
mod libraries;

use std::{path::Path, sync::Arc};

pub use libraries::LibraryError;

use crate::rootfs::{
    Initrd,
    tree::{Node, Tree},
};

/// An initrd that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// A program or one of its libraries is missing.
    #[error("cannot find what the programs of the initrd need")]
    Library(#[from] LibraryError),
    /// It could not be compressed.
    #[error("cannot write the initrd")]
    Write(#[source] std::io::Error),
}

/// Folders that the first program mounts something on.
const FOLDERS: [&str; 6] = ["dev", "proc", "run", "sys", "sysroot", "tmp"];
/// What the kernel starts.
const INIT: &str = "init";
const MERGED: [&str; 3] = ["bin", "lib", "sbin"];
/// Slow to make, quick to read, and made once an image.
const LEVEL: i32 = 19;

/// The files of the initrd: `packages` holds the files that programs and libraries are picked from.
pub(crate) fn collect(
    wanted: &Initrd,
    packages: &Tree,
    init: Vec<u8>,
    modules: Vec<(String, Vec<u8>)>,
) -> Result<Tree, InitrdError> {
    let owner: Arc<str> = "image-builder".into();
    let mut tree = Tree::default();
    for folder in FOLDERS {
        tree.replace(Path::new(folder), Node::folder(&owner));
    }
    for name in MERGED {
        tree.replace(Path::new(name), Node::link(Path::new("usr").join(name), &owner));
    }
    // Our own program is looked at like those of packages: it needs the C library, too.
    let mut sources = packages.clone();
    sources.replace(Path::new(INIT), Node::file(init, 0o755, &wanted.init.as_str().into()));
    let programs: Vec<String> = [INIT.to_owned()].into_iter().chain(wanted.programs.iter().cloned()).collect();
    for (path, node) in libraries::pick(&sources, &programs, &wanted.libraries)? {
        tree.replace(&path, node);
    }
    let mut list = String::new();
    for (name, bytes) in modules {
        let path = format!("/usr/lib/modules/{name}");
        list += &format!("{path}\n");
        tree.replace(Path::new(&path), Node::file(bytes, 0o644, &"kernel".into()));
    }
    tree.replace(Path::new("modules"), Node::file(list.into_bytes(), 0o644, &owner));
    tree.add_parents(&owner);
    Ok(tree)
}

/// The archive that the kernel unpacks.
pub(crate) fn archive(tree: &Tree, time: u64) -> Result<Vec<u8>, InitrdError> {
    let time = u32::try_from(time).unwrap_or(u32::MAX);
    zstd::encode_all(&*cpio::archive(tree, time), LEVEL).map_err(InitrdError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file without segments: a program that needs nothing.
    fn program() -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes.splice(0..7, *b"\x7fELF\x02\x01\x01");
        bytes
    }

    /// An initrd with nothing but its first program.
    fn bare() -> Initrd {
        Initrd {
            init: "mbl-init".into(),
            programs: vec![],
            libraries: vec![],
            packages: Default::default(),
            with: Default::default(),
        }
    }

    #[test]
    fn a_first_program_that_is_none_is_refused() {
        let wanted = bare();
        let error = collect(&wanted, &Tree::default(), b"#!/bin/sh".to_vec(), vec![]).unwrap_err();
        assert!(matches!(error, InitrdError::Library(LibraryError::Malformed { .. })), "{error}");
    }

    #[test]
    fn the_first_program_and_the_modules_are_where_they_are_looked_for() {
        let wanted = bare();
        let modules = vec![("a.ko".to_owned(), b"A".to_vec()), ("b.ko".to_owned(), b"B".to_vec())];
        let tree = collect(&wanted, &Tree::default(), program(), modules).unwrap();
        assert_eq!(&*tree.read(Path::new("modules")).unwrap(), b"/usr/lib/modules/a.ko\n/usr/lib/modules/b.ko\n");
        assert_eq!(&*tree.read(Path::new("lib/modules/b.ko")).unwrap(), b"B");
        assert_eq!(tree.get(Path::new("init")).unwrap().mode, 0o755);
        assert_eq!(archive(&tree, 1).unwrap(), archive(&tree, 1).unwrap());
    }
}
