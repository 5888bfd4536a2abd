//! A key that is handed to a program in a file of memory, and is gone when the program is done. Never on a disk, never an argument.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::console::say;

/// The file, which goes when this goes.
#[derive(Debug)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// Makes the file, open to its owner alone.
    ///
    /// # Errors
    /// If it is there already or cannot be written.
    pub fn holding(path: &Path, key: &[u8]) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let this = Self(path.to_owned());
        file.write_all(key)?;
        Ok(this)
    }

    /// Where it is, as an argument.
    pub fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            say(&format!("cannot remove {}: {e}", self.0.display()));
        }
    }
}

/// Bytes that nobody can guess.
///
/// # Errors
/// If the kernel gives none.
pub fn random<const N: usize>() -> io::Result<Zeroizing<[u8; N]>> {
    let mut key = Zeroizing::new([0; N]);
    let mut filled = 0;
    while let Some(rest) = key.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += getrandom(rest, GetRandomFlags::empty())?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_its_owners_alone_and_gone_with_its_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = KeyFile::holding(&path, b"secret").unwrap();
        assert_eq!((fs::read(&path).unwrap(), file.path()), (b"secret".to_vec(), path.display().to_string()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(KeyFile::holding(&path, b"other").is_err(), "one that is there is not written over");
        drop(file);
        assert!(!path.exists());
    }
}
