//! Which shared libraries a program needs, read from its ELF header and theirs. Nothing is run to find out.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use object::{
    Endianness,
    elf::{DT_NEEDED, DT_RUNPATH, DT_STRSZ, DT_STRTAB, FileHeader64, PT_INTERP},
    read::elf::{Dyn, FileHeader, ProgramHeader},
};

use crate::rootfs::tree::{Node, Tree};

/// A program whose libraries cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The program is not there.
    #[error("no package of the initrd has `{}`", .0.display())]
    Absent(PathBuf),
    /// The file is not a program.
    #[error("`{}` is not a 64-bit ELF file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: object::Error,
    },
    /// A library is not there.
    #[error("`{}` needs `{library}`, which no package of the initrd has", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The library.
        library: String,
    },
}

/// Programs, the libraries named and all that they need, each at its path.
pub(super) fn pick(
    packages: &Tree,
    programs: &[String],
    libraries: &[String],
) -> Result<BTreeMap<PathBuf, Node>, LibraryError> {
    let mut picked = BTreeMap::new();
    let mut open: VecDeque<PathBuf> = programs.iter().map(PathBuf::from).collect();
    for library in libraries {
        let path = find(packages, library, &[]);
        open.push_back(path.ok_or_else(|| LibraryError::Absent(PathBuf::from(library)))?);
    }
    while let Some(path) = open.pop_front() {
        if picked.contains_key(&path) {
            continue;
        }
        let content = packages.read(&path).map_err(|_| LibraryError::Absent(path.clone()))?;
        let facts = read(&content).map_err(|source| LibraryError::Malformed { path: path.clone(), source })?;
        for library in facts.needed {
            let found = find(packages, &library, &facts.folders);
            open.push_back(found.ok_or_else(|| LibraryError::Missing { path: path.clone(), library })?);
        }
        if let Some(interpreter) = facts.interpreter {
            open.push_back(Tree::place(&interpreter).ok_or_else(|| LibraryError::Absent(interpreter.clone()))?);
        }
        let owner = packages.get(&path).map_or_else(|| "package".into(), |node| node.owner.clone());
        picked.insert(path, Node::file(content, 0o755, &owner));
    }
    Ok(picked)
}

/// The path of a library where the dynamic linker of Debian looks, links not followed.
fn find(packages: &Tree, library: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    // `usr/lib/TRIPLET/LIBRARY`; what a program loads by name may lie in a folder below.
    let usual = packages.iter().map(|(path, _)| path).find(|path| {
        path.strip_prefix("usr/lib").is_ok_and(|inside| inside.components().skip(1).eq(Path::new(library).components()))
    });
    let special = folders.iter().map(|folder| folder.join(library)).find(|path| packages.get(path).is_some());
    special.or_else(|| usual.map(Path::to_owned))
}

#[derive(Debug, Default)]
struct Facts {
    needed: Vec<String>,
    folders: Vec<PathBuf>,
    interpreter: Option<PathBuf>,
}

fn read(content: &[u8]) -> object::Result<Facts> {
    let header = FileHeader64::<Endianness>::parse(content)?;
    let endian = header.endian()?;
    let mut facts = Facts::default();
    let segments = header.program_headers(endian, content)?;
    // Addresses of the dynamic section are those in memory; the segments say where they are in the file.
    let at_address = |address: u64, size: u64| {
        segments.iter().find_map(|segment| segment.data_range(endian, content, address, size).ok().flatten())
    };
    for segment in segments {
        if segment.p_type(endian) == PT_INTERP {
            let bytes = segment.data(endian, content).unwrap_or_default();
            let text = String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned();
            facts.interpreter = Some(PathBuf::from(text));
        }
        let Some(entries) = segment.dynamic(endian, content)? else { continue };
        let value = |tag| entries.iter().find(|e| e.tag(endian) == tag).map(|e| e.val(endian));
        let table = match (value(DT_STRTAB), value(DT_STRSZ)) {
            (Some(address), Some(size)) => at_address(address, size).unwrap_or_default(),
            _ => &[],
        };
        for entry in entries {
            let tag = entry.tag(endian);
            if tag != DT_NEEDED && tag != DT_RUNPATH {
                continue;
            }
            let text = usize::try_from(entry.val(endian)).ok().and_then(|at| table.get(at..));
            let text = text.and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or_default();
            let text = String::from_utf8_lossy(text).into_owned();
            if tag == DT_NEEDED {
                facts.needed.push(text);
            } else {
                facts.folders.extend(text.split(':').filter_map(|folder| Tree::place(Path::new(folder))));
            }
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_the_c_library() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let facts = read(&own).unwrap();
        assert!(facts.needed.iter().any(|name| name == "libc.so.6"), "{facts:?}");
        assert!(facts.interpreter.unwrap().to_string_lossy().contains("ld-linux"));
    }

    #[test]
    fn a_library_that_nobody_brings_is_named() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut packages = Tree::default();
        packages.replace(Path::new("usr/bin/tool"), Node::file(own, 0o755, &"p".into()));
        let error = pick(&packages, &["usr/bin/tool".into()], &[]).unwrap_err().to_string();
        assert!(error.starts_with("`usr/bin/tool` needs `lib"), "{error}");
        let error = pick(&packages, &["usr/bin/absent".into()], &[]).unwrap_err().to_string();
        assert!(error.contains("usr/bin/absent"), "{error}");
    }
}
