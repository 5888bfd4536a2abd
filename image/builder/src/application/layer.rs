//! One layer of an application's image: a tar whose bytes depend on nothing but names, modes and contents.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use protocol_types::{Digest, Hasher};

use super::{
    BuildError,
    recipe::{Compression, Recipe, relative},
};

/// What stands at one path of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Folder { mode: u32 },
    Copy { from: PathBuf, mode: u32 },
    Text { text: String, mode: u32 },
    Link { to: PathBuf },
}

/// The content of the image by path, parents before children.
pub(super) type Entries = BTreeMap<PathBuf, Entry>;

/// What the recipe asks for; `base` is the folder that its relative paths start from.
pub(super) fn collect(recipe: &Recipe, base: &Path) -> Result<Entries, BuildError> {
    let mut entries = Entries::new();
    if let Some(folder) = &recipe.folder {
        walk(&base.join(folder), Path::new(""), &mut entries)?;
    }
    for file in &recipe.files {
        let entry = match (&file.source, &file.text) {
            (Some(source), _) => Entry::Copy { from: base.join(source), mode: file.mode },
            (None, text) => Entry::Text { text: text.clone().unwrap_or_default(), mode: file.mode },
        };
        insert(&mut entries, &file.target, entry)?;
    }
    for link in &recipe.links {
        insert(&mut entries, &link.target, Entry::Link { to: PathBuf::from(&link.to) })?;
    }
    Ok(entries)
}

/// Adds an entry and the folders above it.
fn insert(entries: &mut Entries, target: &str, entry: Entry) -> Result<(), BuildError> {
    let path = relative(target).ok_or_else(|| BuildError::Path { path: target.into() })?;
    let path = PathBuf::from(path);
    for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        match entries.entry(above.to_owned()).or_insert(Entry::Folder { mode: 0o755 }) {
            Entry::Folder { .. } => {}
            Entry::Copy { .. } | Entry::Text { .. } | Entry::Link { .. } => {
                return Err(BuildError::NotAFolder { path: above.to_owned() });
            }
        }
    }
    entries.insert(path, entry);
    Ok(())
}

/// Adds everything below `folder`; devices, sockets and pipes have no place in an image.
fn walk(folder: &Path, inside: &Path, entries: &mut Entries) -> Result<(), BuildError> {
    let read = |path: &Path, source| BuildError::Read { path: path.to_owned(), source };
    for found in fs::read_dir(folder).map_err(|error| read(folder, error))? {
        let from = found.map_err(|error| read(folder, error))?.path();
        let Some(name) = from.file_name() else { continue };
        let path = inside.join(name);
        let facts = fs::symlink_metadata(&from).map_err(|error| read(&from, error))?;
        let (kind, mode) = (facts.file_type(), facts.mode() & 0o777);
        if kind.is_dir() {
            entries.insert(path.clone(), Entry::Folder { mode });
            walk(&from, &path, entries)?;
        } else if kind.is_file() {
            entries.insert(path, Entry::Copy { from, mode });
        } else if kind.is_symlink() {
            let to = fs::read_link(&from).map_err(|error| read(&from, error))?;
            entries.insert(path, Entry::Link { to });
        } else {
            return Err(BuildError::Special { path: from });
        }
    }
    Ok(())
}

/// What went into a layer.
pub(super) struct Written {
    /// The digest of the tar itself (its DiffID).
    pub(super) diff_id: Digest,
    /// The digest of each file.
    pub(super) files: BTreeMap<PathBuf, Digest>,
}

/// Writes the compressed layer into `to`.
pub(super) fn write(entries: &Entries, compression: Compression, to: &File) -> Result<Written, BuildError> {
    match compression {
        Compression::Gzip => {
            // No name and no time in the header: `GzBuilder` leaves both out.
            let mut tee = Tee::new(flate2::GzBuilder::new().write(to, flate2::Compression::new(6)));
            let files = tar(entries, &mut tee)?;
            tee.to.finish().map_err(BuildError::Layer)?;
            Ok(Written { diff_id: tee.hasher.finish(), files })
        }
        Compression::Zstd => {
            let mut tee = Tee::new(zstd::Encoder::new(to, 9).map_err(BuildError::Layer)?);
            let files = tar(entries, &mut tee)?;
            tee.to.finish().map_err(BuildError::Layer)?;
            Ok(Written { diff_id: tee.hasher.finish(), files })
        }
    }
}

fn tar(entries: &Entries, to: &mut impl Write) -> Result<BTreeMap<PathBuf, Digest>, BuildError> {
    let mut tar = tar::Builder::new(to);
    let mut files = BTreeMap::new();
    for (path, entry) in entries {
        if let Some(digest) = append(&mut tar, path, entry)? {
            files.insert(path.clone(), digest);
        }
    }
    tar.finish().map_err(BuildError::Layer)?;
    Ok(files)
}

/// Appends one entry; returns the digest of a file.
fn append(tar: &mut tar::Builder<impl Write>, path: &Path, entry: &Entry) -> Result<Option<Digest>, BuildError> {
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    match entry {
        Entry::Folder { mode } => tar.append_data(&mut header(tar::EntryType::Directory, *mode, 0), path, io::empty()),
        Entry::Text { text, mode } => {
            let size = text.len() as u64;
            tar.append_data(&mut header(tar::EntryType::Regular, *mode, size), path, text.as_bytes())
                .map_err(BuildError::Layer)?;
            return Ok(Some(Digest::of(text.as_bytes())));
        }
        Entry::Link { to } => tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, to),
        Entry::Copy { from, mode } => {
            let read = |source| BuildError::Read { path: from.clone(), source };
            let file = File::open(from).map_err(read)?;
            let size = file.metadata().map_err(read)?.len();
            // A file that changes its length meanwhile would shift everything behind it.
            let mut exact = Exactly { from: file, left: size, hasher: Hasher::new() };
            let copied = tar.append_data(&mut header(tar::EntryType::Regular, *mode, size), path, &mut exact);
            copied.map_err(read)?;
            return match exact.left {
                0 => Ok(Some(exact.hasher.finish())),
                _ => Err(read(io::ErrorKind::UnexpectedEof.into())),
            };
        }
    }
    .map_err(BuildError::Layer)?;
    Ok(None)
}

/// Reads at most the announced length, hashes it and remembers what is missing.
struct Exactly {
    from: File,
    left: u64,
    hasher: Hasher,
}

impl io::Read for Exactly {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = io::Read::take(&self.from, self.left).read(to)?;
        self.left -= read as u64;
        self.hasher.update(to.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Hashes what passes through.
struct Tee<W> {
    to: W,
    hasher: Hasher,
}

impl<W> Tee<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: Hasher::new() }
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
