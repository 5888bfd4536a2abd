//! The two passes over a layer: look at everything, then write.

use std::io::{self, Read};

use protocol_types::{Digest, Hasher};

use super::{
    Tree,
    archive::walk,
    decode::decoder,
    entry::{Entry, Kind},
    error::LayerError,
};
use crate::{image::Compression, limits::Limits};

/// What the layers of one image may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    bytes: u64,
    entries: u64,
}

impl Budget {
    /// All that an image may take.
    pub const fn of(limits: &Limits) -> Self {
        Self { bytes: limits.unpacked_bytes, entries: limits.entries }
    }

    /// What is left after `layer`.
    #[must_use]
    pub const fn after(self, layer: &Checked) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(layer.archive_bytes),
            entries: self.entries.saturating_sub(layer.entries),
        }
    }
}

/// What the first pass found in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Archive entries.
    pub entries: u64,
    /// Bytes of the archive without compression.
    pub archive_bytes: u64,
    /// Bytes that its files take on a disk with blocks of 4 KiB; folders and links count as one block.
    pub disk_bytes: u64,
    /// Whether it hides something of lower layers.
    whiteouts: bool,
}

/// First pass: looks at every entry of the layer, takes the digest of the archive and compares it with `diff_id`.
/// Writes nothing.
pub fn check(
    blob: impl Read,
    compression: Compression,
    diff_id: &Digest,
    budget: Budget,
) -> Result<Checked, LayerError> {
    let mut digested = Digested { inner: decoder(blob, compression, budget.bytes)?, hasher: Hasher::new(), bytes: 0 };
    let (mut disk_bytes, mut whiteouts) = (0u64, false);
    let entries = walk(&mut digested, budget.entries, |entry, _| {
        let size = match entry.kind {
            Kind::File { size } => size,
            Kind::Whiteout | Kind::Opaque => {
                whiteouts = true;
                return Ok(());
            }
            Kind::Directory | Kind::Symlink { .. } | Kind::Hardlink { .. } => 1,
        };
        disk_bytes = disk_bytes.saturating_add(size.checked_next_multiple_of(4096).unwrap_or(u64::MAX));
        Ok(())
    })?;
    let Digested { hasher, bytes, .. } = digested;
    let got = hasher.finish();
    if got != *diff_id {
        return Err(LayerError::WrongDiffId { wanted: *diff_id, got });
    }
    Ok(Checked { entries, archive_bytes: bytes, disk_bytes, whiteouts })
}

/// Second pass over a layer that passed the first: `open` gives its blob from the beginning, twice if the layer hides
/// something. Whiteouts concern lower layers only, wherever in the archive they stand, so they go first.
pub fn apply<R: Read>(
    mut open: impl FnMut() -> Result<R, LayerError>,
    compression: Compression,
    layer: &Checked,
    tree: &Tree,
) -> Result<(), LayerError> {
    if layer.whiteouts {
        let archive = decoder(open()?, compression, layer.archive_bytes)?;
        walk(archive, layer.entries, |entry, _| match entry.kind {
            Kind::Whiteout => tree.hide(&entry.path),
            Kind::Opaque => tree.hide_inside(&entry.path),
            Kind::Directory | Kind::File { .. } | Kind::Symlink { .. } | Kind::Hardlink { .. } => Ok(()),
        })?;
    }
    let archive = decoder(open()?, compression, layer.archive_bytes)?;
    walk(archive, layer.entries, |entry, bytes| put(tree, entry, bytes)).map(drop)
}

fn put(tree: &Tree, entry: &Entry, bytes: &mut dyn Read) -> Result<(), LayerError> {
    match &entry.kind {
        Kind::Directory => tree.put_directory(entry),
        Kind::File { size } => tree.put_file(entry, *size, bytes),
        Kind::Symlink { target } => tree.put_symlink(entry, target),
        Kind::Hardlink { target } => tree.put_hardlink(&entry.path, target),
        Kind::Whiteout | Kind::Opaque => Ok(()),
    }
}

struct Digested<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use proptest::prelude::*;
    use protocol_types::ReasonCode;

    use super::*;
    use crate::refusal::Coded;

    /// What one entry of a generated layer is.
    #[derive(Clone, Debug)]
    enum Put {
        Directory,
        File(u8),
        Symlink(String),
        Hide,
        HideInside,
    }

    /// A path of one to three short names and what is there.
    fn entry() -> impl Strategy<Value = (String, Put)> {
        let put = prop_oneof![
            3 => Just(Put::Directory),
            3 => any::<u8>().prop_map(Put::File),
            1 => prop_oneof!["[ab]", Just("..".into()), Just("/tmp".into())].prop_map(Put::Symlink),
            1 => Just(Put::Hide),
            1 => Just(Put::HideInside),
        ];
        ("[abc](/[abc]){0,2}", put)
    }

    fn archive(layer: &[(String, Put)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, put) in layer {
            let (folder, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(folder, name)| (folder, name));
            let mut header = tar::Header::new_gnu();
            for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime, tar::Header::set_size] {
                set(&mut header, 0);
            }
            header.set_mode(0o755);
            let mut append = |header: &mut tar::Header, path: String, bytes: &[u8]| {
                header.set_size(bytes.len() as u64);
                builder.append_data(header, path, bytes).unwrap();
            };
            match put {
                Put::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    append(&mut header, path.clone(), &[]);
                }
                Put::File(byte) => append(&mut header, path.clone(), &[*byte]),
                Put::Symlink(to) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    builder.append_link(&mut header, path, to).unwrap();
                }
                Put::Hide => append(&mut header, format!("./{folder}/.wh.{name}"), &[]),
                Put::HideInside => append(&mut header, format!("{path}/.wh..wh..opq"), &[]),
            }
        }
        builder.into_inner().unwrap()
    }

    /// What is at a path of the model.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Node {
        Directory,
        File(u8),
        Symlink(String),
    }

    /// The specification's rules over a map of paths.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    struct Model(BTreeMap<String, Node>);

    impl Model {
        fn remove_below(&mut self, path: &str) {
            self.0.retain(|other, _| !other.starts_with(&format!("{path}/")));
        }

        /// Whether everything up to `path` is a folder; `None` if something of it is missing or a file.
        fn reach(&self, path: &str) -> Result<Option<()>, ReasonCode> {
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            for at in ends.filter(|at| *at > 0) {
                match self.0.get(&path[..at]) {
                    Some(Node::Directory) => {}
                    Some(Node::Symlink(_)) => return Err(ReasonCode::UnsafeLayer),
                    Some(Node::File(_)) | None => return Ok(None),
                }
            }
            Ok(Some(()))
        }

        fn apply(&mut self, layer: &[(String, Put)]) -> Result<(), ReasonCode> {
            for (path, put) in layer {
                match put {
                    Put::Hide if self.reach(path.rsplit_once('/').map_or("", |(folder, _)| folder))?.is_some() => {
                        self.remove_below(path);
                        self.0.remove(path);
                    }
                    Put::HideInside if self.reach(path)?.is_some() => self.remove_below(path),
                    _ => {}
                }
            }
            layer.iter().try_for_each(|(path, put)| self.put(path, put))
        }

        fn put(&mut self, path: &str, put: &Put) -> Result<(), ReasonCode> {
            let node = match put {
                Put::Directory => Node::Directory,
                Put::File(byte) => Node::File(*byte),
                Put::Symlink(to) => Node::Symlink(to.clone()),
                Put::Hide | Put::HideInside => return Ok(()),
            };
            for (at, _) in path.match_indices('/') {
                match self.0.get(&path[..at]) {
                    Some(Node::Directory) => {}
                    Some(Node::Symlink(_)) => return Err(ReasonCode::UnsafeLayer),
                    Some(Node::File(_)) => return Err(ReasonCode::MalformedImage),
                    None => drop(self.0.insert(path[..at].to_owned(), Node::Directory)),
                }
            }
            if node != Node::Directory {
                self.remove_below(path);
            }
            self.0.insert(path.to_owned(), node);
            Ok(())
        }
    }

    fn read(root: &Path, below: &str, into: &mut Model) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            if meta.is_symlink() {
                let to = fs::read_link(&full).unwrap().to_str().unwrap().to_owned();
                into.0.insert(path, Node::Symlink(to));
            } else if meta.is_dir() {
                into.0.insert(path.clone(), Node::Directory);
                read(root, &path, into);
            } else {
                into.0.insert(path, Node::File(fs::read(&full).unwrap()[0]));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn layers_make_the_tree_that_the_specification_describes_and_touch_nothing_else(
            layers in prop::collection::vec(prop::collection::vec(entry(), 0..8), 1..4),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            fs::create_dir(&root).unwrap();
            fs::write(dir.path().join("a"), b"outside").unwrap();
            let tree = Tree::open(&root, rustix::process::geteuid().as_raw(), 1_000).unwrap();
            let mut model = Model::default();
            for layer in &layers {
                let tar = archive(layer);
                let budget = Budget::of(&Limits::default());
                let checked = check(&tar[..], Compression::None, &Digest::of(&tar), budget).unwrap();
                let applied = apply(|| Ok(&tar[..]), Compression::None, &checked, &tree);
                let expected = model.apply(layer);
                prop_assert_eq!(applied.as_ref().map_err(Coded::code), expected.as_ref().map_err(|code| *code));
                if applied.is_err() {
                    break;
                }
                let mut found = Model::default();
                read(&root, "", &mut found);
                prop_assert_eq!(&found, &model);
            }
            prop_assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"outside");
            prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        }
    }
}
