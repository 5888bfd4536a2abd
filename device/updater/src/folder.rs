//! A release in a folder, as `mbl release export` writes it onto a stick. Never judges it: the updater checks what it brings.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use protocol_types::{
    Digest, TargetPath,
    socket::{Fetch, FetchError, MAX_FETCH},
};
use serde::Deserialize;

use crate::files::read_at_most;

/// The longest `wish.json` in bytes.
const MAX_WISH_BYTES: usize = 4096;

/// What the folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderWish {
    /// Path of the release in the targets.
    pub release: TargetPath,
    /// Digest of the release document.
    pub digest: Digest,
}

/// A folder that is no exported release.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The wish cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The wish is malformed.
    #[error("{} does not name a release and its digest", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
}

/// An exported release.
#[derive(Clone, Debug)]
pub struct ReleaseFolder {
    path: PathBuf,
}

impl ReleaseFolder {
    /// Opens the folder at `path` and reads which release it brings.
    ///
    /// # Errors
    /// If there is no well-formed `wish.json`.
    pub fn open(path: &Path) -> Result<(Self, FolderWish), FolderError> {
        let file = path.join("wish.json");
        let text =
            read_at_most(&file, MAX_WISH_BYTES).map_err(|source| FolderError::Read { path: file.clone(), source })?;
        let wish = serde_json::from_slice(&text).map_err(|source| FolderError::Malformed { path: file, source })?;
        Ok((Self { path: path.to_owned() }, wish))
    }

    /// Answers a request as the agent would.
    ///
    /// # Errors
    /// If the folder does not have it, or more of it than allowed.
    pub fn fetch(&self, what: &Fetch) -> Result<Vec<u8>, FetchError> {
        match what {
            Fetch::Metadata { name, max_bytes, offset } => {
                let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
                if name.is_empty() || name.starts_with('.') || !plain {
                    return Err(FetchError::NotFound);
                }
                let file = open(&self.path.join("metadata").join(name))?;
                if file.metadata().map_err(|_| FetchError::Unreachable)?.len() > u64::from(*max_bytes) {
                    return Err(FetchError::TooLong);
                }
                piece(&file, *offset, MAX_FETCH)
            }
            Fetch::Artifact { digest, offset, length } => {
                piece(&open(&self.path.join("artifacts").join(digest.hex()))?, *offset, (*length).min(MAX_FETCH))
            }
        }
    }
}

/// Opens a plain file: a stick may hold a pipe, on which a reader would wait for ever.
fn open(path: &Path) -> Result<File, FetchError> {
    let found = fs::metadata(path).map_err(|e| cause(&e))?;
    if !found.is_file() {
        return Err(FetchError::NotFound);
    }
    File::open(path).map_err(|e| cause(&e))
}

/// What the folder does not have ends the installation; a stick that cannot be read may be put in again.
fn cause(error: &io::Error) -> FetchError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FetchError::NotFound,
        _ => FetchError::Unreachable,
    }
}

fn piece(file: &File, offset: u64, length: u32) -> Result<Vec<u8>, FetchError> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // A stick that was pulled out may be put in again.
            Err(_) => return Err(FetchError::Unreachable),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, ReleaseFolder) {
        let dir = tempfile::tempdir().unwrap();
        let wish = format!(r#"{{"release":"releases/1.json","digest":"{}"}}"#, Digest::of(b"r"));
        fs::write(dir.path().join("wish.json"), wish).unwrap();
        for name in ["metadata", "artifacts"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (folder, wish) = ReleaseFolder::open(dir.path()).unwrap();
        assert_eq!(wish.digest, Digest::of(b"r"));
        (dir, folder)
    }

    fn metadata(name: &str, max_bytes: u32) -> Fetch {
        Fetch::Metadata { name: name.to_owned(), max_bytes, offset: 0 }
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        let (dir, folder) = folder();
        fs::write(dir.path().join("metadata/1.root.json"), b"root").unwrap();
        assert_eq!(folder.fetch(&metadata("1.root.json", 10)), Ok(b"root".to_vec()));
        for name in ["../wish.json", "/etc/passwd", "", ".", "..", "a/b"] {
            assert_eq!(folder.fetch(&metadata(name, 10_000)), Err(FetchError::NotFound), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_missing() {
        let (dir, folder) = folder();
        std::os::unix::fs::symlink("loop.json", dir.path().join("metadata/loop.json")).unwrap();
        assert_eq!(folder.fetch(&metadata("loop.json", 10)), Err(FetchError::Unreachable));
        assert_eq!(folder.fetch(&metadata("none.json", 10)), Err(FetchError::NotFound));
    }

    #[test]
    fn more_metadata_than_allowed_is_not_brought() {
        let (dir, folder) = folder();
        fs::write(dir.path().join("metadata/x.json"), b"12345").unwrap();
        assert_eq!(folder.fetch(&metadata("x.json", 4)), Err(FetchError::TooLong));
    }

    #[test]
    fn an_artifact_comes_in_pieces() {
        let (dir, folder) = folder();
        let digest = Digest::of(b"12345");
        fs::write(dir.path().join("artifacts").join(digest.hex()), b"12345").unwrap();
        let fetch = |offset, length| folder.fetch(&Fetch::Artifact { digest, offset, length });
        assert_eq!(fetch(0, 2), Ok(b"12".to_vec()));
        assert_eq!(fetch(4, 2), Ok(b"5".to_vec()));
        assert_eq!(fetch(9, 2), Ok(Vec::new()));
        let absent = Fetch::Artifact { digest: Digest::of(b"no"), offset: 0, length: 1 };
        assert_eq!(folder.fetch(&absent), Err(FetchError::NotFound));
    }

    #[test]
    fn a_wish_with_unknown_fields_is_refused() {
        let (dir, _) = folder();
        let wish = format!(r#"{{"release":"releases/1.json","digest":"{}","force":true}}"#, Digest::of(b"r"));
        fs::write(dir.path().join("wish.json"), wish).unwrap();
        assert!(matches!(ReleaseFolder::open(dir.path()), Err(FolderError::Malformed { .. })));
    }
}
