//! The programs of ours that an image takes as finished files: each must have the digest that stands in the list beside them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::Digest;

use crate::packages::digest_of;

/// The list of digests, as `sha256sum` writes it.
const LIST: &str = "SHA256SUMS";

/// Programs that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// A file could not be read.
    #[error("cannot read {}; `image/device-binaries` builds the programs of a device and their list", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program is not in the list.
    #[error("{} has no line for `{program}`", list.display())]
    Unlisted {
        /// The list.
        list: PathBuf,
        /// The program.
        program: String,
    },
    /// A program is not what the list says.
    #[error("{} does not have the digest that {LIST} names", .0.display())]
    Changed(PathBuf),
}

/// Makes sure that the folder holds `names` and that each is what the list says; returns their digests.
pub(super) fn check<'a>(
    folder: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, Digest>, ProgramsError> {
    let list = folder.join(LIST);
    let text = fs::read_to_string(&list).map_err(|source| ProgramsError::Read { path: list.clone(), source })?;
    let listed: BTreeMap<&str, Digest> = text.lines().filter_map(line).collect();
    let mut digests = BTreeMap::new();
    for name in names {
        let unlisted = || ProgramsError::Unlisted { list: list.clone(), program: name.to_owned() };
        let expected = listed.get(name).ok_or_else(unlisted)?;
        let path = folder.join(name);
        let digest = digest_of(&path).map_err(|source| ProgramsError::Read { path: path.clone(), source })?;
        if digest != *expected {
            return Err(ProgramsError::Changed(path));
        }
        digests.insert(name.to_owned(), digest);
    }
    Ok(digests)
}

/// `HEX  NAME` or `HEX *NAME`.
fn line(line: &str) -> Option<(&str, Digest)> {
    let (digest, name) = line.split_once(' ')?;
    Some((name.trim_start_matches([' ', '*']), Digest::from_hex(digest).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_changed_or_is_not_listed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mbl"), b"program").unwrap();
        assert!(matches!(check(dir.path(), ["mbl"]), Err(ProgramsError::Read { .. })));
        fs::write(dir.path().join(LIST), format!("{}  mbl\n", Digest::of(b"program").hex())).unwrap();
        assert_eq!(check(dir.path(), ["mbl"]).unwrap()["mbl"], Digest::of(b"program"));
        assert!(matches!(check(dir.path(), ["other"]), Err(ProgramsError::Unlisted { .. })));
        fs::write(dir.path().join("mbl"), b"changed").unwrap();
        assert!(matches!(check(dir.path(), ["mbl"]), Err(ProgramsError::Changed(_))));
    }
}
