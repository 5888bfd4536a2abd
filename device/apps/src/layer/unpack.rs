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
