//! One entry of a layer after every check that needs no disk: where it goes, what it is, who owns it.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use super::error::{LayerError, shown};
use crate::limits::Limits;

/// A path below the application's root: no part is empty, `.` or `..`; no parts at all means the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerPath {
    parts: Vec<OsString>,
}

impl LayerPath {
    /// Reads a path as archives write it: `./` in front, doubled and final slashes are dropped, everything that leads out of
    /// the root is refused.
    pub fn parse(raw: &[u8]) -> Result<Self, LayerError> {
        let malformed = |what| LayerError::Malformed { path: shown(raw), what };
        let outside = |what| LayerError::Unsafe { path: shown(raw), what };
        if raw.is_empty() {
            return Err(malformed("has an empty path"));
        }
        if raw.len() > Limits::PATH_BYTES {
            return Err(malformed("has a path of more than 4095 bytes"));
        }
        if raw.contains(&0) {
            return Err(malformed("has a zero byte in its path"));
        }
        if raw[0] == b'/' {
            return Err(outside("has an absolute path"));
        }
        let mut parts = Vec::new();
        for part in raw.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(outside("has a path that leads upwards")),
                name if name.len() > Limits::NAME_BYTES => return Err(malformed("has a name of more than 255 bytes")),
                name => parts.push(OsStr::from_bytes(name).to_owned()),
            }
        }
        if parts.len() > Limits::DEPTH {
            return Err(malformed("lies deeper than 64 folders"));
        }
        Ok(Self { parts })
    }

    /// The path as one relative text, `.` for the root.
    pub fn joined(&self) -> OsString {
        if self.parts.is_empty() {
            return OsString::from(".");
        }
        OsString::from_vec(self.parts.join(OsStr::new("/")).into_vec())
    }

    /// The parts, outermost first.
    pub fn parts(&self) -> &[OsString] {
        &self.parts
    }

    /// The path of its outermost `count` parts.
    pub(super) fn first(&self, count: usize) -> Self {
        Self { parts: self.parts.iter().take(count).cloned().collect() }
    }

    /// The folder that holds it and its name there; `None` for the root.
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        let (name, parents) = self.parts.split_last()?;
        Some((Self { parts: parents.to_vec() }, name))
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.joined().as_bytes()))
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Directory,
    /// A file; its bytes follow in the archive.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A symbolic link, never followed while unpacking; inside the container it resolves against the container's root.
    Symlink {
        /// Its text.
        target: OsString,
    },
    /// Another name of a file that is already there.
    Hardlink {
        /// The file.
        target: LayerPath,
    },
    /// Removes what lower layers have under the entry's path (OCI image specification, "Whiteouts").
    Whiteout,
    /// Removes what lower layers have inside the entry's path ("Opaque whiteout").
    Opaque,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes; for a whiteout, what it hides.
    pub path: LayerPath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits. Set-user-id and set-group-id are dropped: no process of a container may gain privileges, so they
    /// could only surprise.
    pub mode: u32,
    /// Owner as the container sees it.
    pub uid: u32,
    /// Group as the container sees it.
    pub gid: u32,
    /// Seconds since 1970 of the last change.
    pub modified: u64,
}

/// What an archive header and its extensions say, before any check.
#[derive(Debug)]
pub(super) struct RawEntry<'a> {
    pub(super) path: &'a [u8],
    pub(super) link: Option<&'a [u8]>,
    pub(super) entry_type: tar::EntryType,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) modified: u64,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of the file system from which the whiteout convention comes; engines ignore it.
const WHITEOUT_META: &[u8] = b".wh..wh.";

impl Entry {
    /// Checks what the archive says; `None` for an entry that means nothing to a container.
    pub(super) fn check(raw: &RawEntry<'_>) -> Result<Option<Self>, LayerError> {
        let path = LayerPath::parse(raw.path)?;
        let malformed = |what| LayerError::Malformed { path: shown(raw.path), what };
        let owner = |id: u64| match u32::try_from(id) {
            Ok(id) if id < Limits::OWNERS => Ok(id),
            _ => Err(LayerError::Unsafe { path: shown(raw.path), what: "has an owner outside the ids of a container" }),
        };
        let (uid, gid) = (owner(raw.uid)?, owner(raw.gid)?);
        let entry = |path, kind, mode| Some(Self { path, kind, mode, uid, gid, modified: raw.modified });
        if let Some((name, parents)) = path.parts.split_last() {
            if parents.iter().any(|part| part.as_bytes().starts_with(WHITEOUT)) {
                return Err(malformed("lies inside a whiteout"));
            }
            if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
                let mut target = parents.to_vec();
                if name.as_bytes() == OPAQUE {
                    return Ok(entry(Self::at(target), Kind::Opaque, 0));
                }
                if name.as_bytes().starts_with(WHITEOUT_META) {
                    return Ok(None);
                }
                if matches!(hidden, b"" | b"." | b"..") {
                    return Err(malformed("is a whiteout of nothing"));
                }
                target.push(OsStr::from_bytes(hidden).to_owned());
                return Ok(entry(Self::at(target), Kind::Whiteout, 0));
            }
        }
        let kind = Self::kind(raw)?;
        if path.parts.is_empty() && kind != Kind::Directory {
            return Err(malformed("replaces the root itself"));
        }
        let bits = if kind == Kind::Directory { 0o1777 } else { 0o777 };
        Ok(entry(path, kind, raw.mode & bits))
    }

    fn at(parts: Vec<OsString>) -> LayerPath {
        LayerPath { parts }
    }

    fn kind(raw: &RawEntry<'_>) -> Result<Kind, LayerError> {
        use tar::EntryType::{Block, Char, Continuous, Directory, Fifo, GNUSparse, Link, Regular, Symlink};
        let malformed = |what| LayerError::Malformed { path: shown(raw.path), what };
        Ok(match raw.entry_type {
            // Before POSIX, a folder was a file whose name ends with a slash.
            Regular if raw.path.ends_with(b"/") && raw.size == 0 => Kind::Directory,
            Regular | Continuous => Kind::File { size: raw.size },
            Directory => Kind::Directory,
            Symlink => match raw.link {
                Some(target) if target.is_empty() || target.contains(&0) => {
                    return Err(malformed("is a link without a proper target"));
                }
                Some(target) if target.len() <= Limits::PATH_BYTES => {
                    Kind::Symlink { target: OsStr::from_bytes(target).to_owned() }
                }
                _ => return Err(malformed("is a link without a proper target")),
            },
            Link => {
                let target = raw.link.ok_or_else(|| malformed("is a link without a proper target"))?;
                let target = LayerPath::parse(target).map_err(|error| match error {
                    LayerError::Unsafe { .. } => LayerError::Unsafe {
                        path: shown(raw.path),
                        what: "is a hard link to something outside the root",
                    },
                    other => other,
                })?;
                Kind::Hardlink { target }
            }
            Char | Block => return Err(LayerError::Unsafe { path: shown(raw.path), what: "is a device" }),
            Fifo => return Err(LayerError::Unsafe { path: shown(raw.path), what: "is a named pipe" }),
            GNUSparse => return Err(malformed("is a sparse file, which layers may not hold")),
            _ => return Err(malformed("is of a kind that layers may not hold")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw<'a>(path: &'a [u8], entry_type: tar::EntryType) -> RawEntry<'a> {
        RawEntry { path, link: None, entry_type, size: 0, mode: 0o7777, uid: 0, gid: 0, modified: 0 }
    }

    #[test]
    fn bits_that_give_privileges_are_dropped_and_the_sticky_bit_of_a_folder_stays() {
        let mode = |kind| Entry::check(&raw(b"x", kind)).unwrap().unwrap().mode;
        assert_eq!(mode(tar::EntryType::Regular), 0o777);
        assert_eq!(mode(tar::EntryType::Directory), 0o1777);
    }

    #[test]
    fn devices_and_pipes_are_unsafe() {
        for kind in [tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo] {
            assert!(matches!(Entry::check(&raw(b"dev/x", kind)), Err(LayerError::Unsafe { .. })), "{kind:?}");
        }
    }

    #[test]
    fn whiteouts_name_what_they_hide() {
        let hides = |path: &[u8]| {
            Entry::check(&raw(path, tar::EntryType::Regular)).map(|e| e.map(|e| (e.path.joined().into_vec(), e.kind)))
        };
        assert_eq!(hides(b"a/.wh.b").unwrap(), Some((b"a/b".to_vec(), Kind::Whiteout)));
        assert_eq!(hides(b"./a/.wh..wh..opq").unwrap(), Some((b"a".to_vec(), Kind::Opaque)));
        assert_eq!(hides(b".wh..wh..opq").unwrap(), Some((b".".to_vec(), Kind::Opaque)));
        assert_eq!(hides(b"a/.wh..wh.plnk").unwrap(), None);
        for bad in [&b"a/.wh."[..], b"a/.wh...", b"a/.wh..", b".wh.a/b"] {
            assert!(hides(bad).is_err(), "{}", shown(bad));
        }
    }

    #[test]
    fn an_owner_outside_the_range_of_a_container_is_unsafe() {
        let entry = RawEntry { uid: 65_536, ..raw(b"x", tar::EntryType::Regular) };
        assert!(matches!(Entry::check(&entry), Err(LayerError::Unsafe { .. })));
    }

    proptest! {
        #[test]
        fn no_accepted_path_leaves_the_root(path: Vec<u8>) {
            if let Ok(path) = LayerPath::parse(&path) {
                prop_assert!(path.parts().iter().all(|p| !matches!(p.as_bytes(), b"" | b"." | b"..") && !p.as_bytes().contains(&b'/')));
                prop_assert!(path.parts().len() <= Limits::DEPTH);
            }
        }

        #[test]
        fn a_path_with_an_upward_part_is_never_accepted(before in "[a-z/.]{0,12}", after in "[a-z/]{0,12}") {
            let path = format!("{before}/../{after}");
            let refused = LayerPath::parse(path.as_bytes()).is_err();
            prop_assert!(refused);
        }
    }
}
