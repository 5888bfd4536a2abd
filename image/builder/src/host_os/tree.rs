//! Puts a tree of files on top of another. Files are linked, not copied, so the lower tree must never be written through.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A tree that could not be laid.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The source could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The place could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file, link or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A device, socket or pipe.
    #[error("{path} is neither file, folder nor symbolic link")]
    Special {
        /// The path.
        path: PathBuf,
    },
}

/// Lays everything below `from` over what is in `to`; a file replaces what has its name, folders are merged.
pub(super) fn lay(from: &Path, to: &Path) -> Result<(), TreeError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| TreeError::Read { path, source }
    };
    for found in fs::read_dir(from).map_err(read(from))? {
        let found = found.map_err(read(from))?;
        let (source, place) = (found.path(), to.join(found.file_name()));
        let facts = fs::symlink_metadata(&source).map_err(read(&source))?;
        let write = |source| TreeError::Write { path: place.clone(), source };
        let kind = facts.file_type();
        if kind.is_dir() {
            // A link to a folder, as `/lib`, stays and is followed.
            if !place.is_dir() {
                fs::create_dir(&place).map_err(write)?;
                fs::set_permissions(&place, facts.permissions()).map_err(write)?;
            }
            lay(&source, &place)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&source).map_err(read(&source))?;
            remove(&place).and_then(|()| symlink(target, &place)).map_err(write)?;
        } else if kind.is_file() {
            remove(&place).map_err(write)?;
            if fs::hard_link(&source, &place).is_err() {
                fs::copy(&source, &place).map_err(write)?;
            }
        } else {
            return Err(TreeError::Special { path: source });
        }
    }
    Ok(())
}

/// Removes a file or link if it is there, so that what is written under its name is a file of its own.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
