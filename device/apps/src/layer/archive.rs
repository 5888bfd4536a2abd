//! Walks the entries of a layer's archive. Reads header after header by itself, because the archive library would hold names and
//! extended headers of any length in memory.

use std::{
    io::{self, Read},
    ops::ControlFlow,
};

use tar::{Archive, EntryType, PaxExtensions};

use super::{
    entry::{Entry, RawEntry},
    error::{LayerError, shown},
};
use crate::limits::Limits;

/// What extended headers say about the entry that follows them (POSIX pax, GNU long names).
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    pending: bool,
}

/// Calls `visit` with each entry of the uncompressed `archive` and the reader of its bytes, then reads on to the end of the
/// stream. At most `most` entries are visited, headers that only extend others included; returns how many there were.
pub fn walk<R: Read>(
    archive: R,
    most: u64,
    mut visit: impl FnMut(&Entry, &mut dyn Read) -> Result<(), LayerError>,
) -> Result<u64, LayerError> {
    let mut archive = Archive::new(archive);
    let mut extensions = Extensions::default();
    let mut count = 0;
    for entry in archive.entries().map_err(LayerError::from_read)?.raw(true) {
        let mut entry = entry.map_err(LayerError::from_read)?;
        count += 1;
        if count > most {
            return Err(LayerError::TooLarge { what: "entries", limit: most });
        }
        if extensions.take(&mut entry)?.is_continue() {
            continue;
        }
        let of_entry = std::mem::take(&mut extensions);
        if let Some(checked) = of_entry.check(&entry)? {
            visit(&checked, &mut entry)?;
        }
    }
    if extensions.pending {
        return Err(LayerError::Malformed { path: String::new(), what: "is missing after its extended header" });
    }
    // Whatever follows the archive's end still belongs to its digest.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(LayerError::from_read)?;
    Ok(count)
}

impl Extensions {
    /// Takes the entry if it only extends the next one.
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<ControlFlow<()>, LayerError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(terminated(contents(entry)?)),
            EntryType::GNULongLink => self.link = Some(terminated(contents(entry)?)),
            EntryType::XHeader => self.take_pax(&contents(entry)?)?,
            // Defaults for all entries: written by `git archive` for its comment, without meaning for a layer.
            EntryType::XGlobalHeader => return contents(entry).map(|_| ControlFlow::Continue(())),
            _ => return Ok(ControlFlow::Break(())),
        }
        self.pending = true;
        Ok(ControlFlow::Continue(()))
    }

    fn take_pax(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        let malformed = |what| LayerError::Malformed { path: "extended header".into(), what };
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(|_| malformed("cannot be read"))?;
            let number = || {
                let text = record.value().map_err(|_| malformed("holds a number that cannot be read"))?;
                text.parse::<u64>().map_err(|_| malformed("holds a number that cannot be read"))
            };
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(number()?),
                b"gid" => self.gid = Some(number()?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(malformed("announces a sparse file, which layers may not hold"));
                }
                // Times, names of owners, and extended attributes, which could carry capabilities: dropped.
                _ => {}
            }
        }
        Ok(())
    }

    fn check<R: Read>(&self, entry: &tar::Entry<'_, R>) -> Result<Option<Entry>, LayerError> {
        let header = entry.header();
        let own_path = header.path_bytes();
        let path = self.path.as_deref().unwrap_or(&own_path);
        let own_link = header.link_name_bytes();
        let malformed = |what| LayerError::Malformed { path: shown(path), what };
        let number = |of: io::Result<u64>| of.map_err(|_| malformed("has a number that cannot be read"));
        // Readers disagree about which of two sizes counts, so a difference is an attempt to show each its own archive.
        if self.size.is_some_and(|size| size != entry.size()) {
            return Err(malformed("has two different sizes"));
        }
        Entry::check(&RawEntry {
            path,
            link: self.link.as_deref().or(own_link.as_deref()),
            entry_type: header.entry_type(),
            size: entry.size(),
            mode: header.mode().map_err(|_| malformed("has a number that cannot be read"))?,
            uid: self.uid.map_or_else(|| number(header.uid()), Ok)?,
            gid: self.gid.map_or_else(|| number(header.gid()), Ok)?,
            modified: number(header.mtime())?,
        })
    }
}

/// The bytes of an extended header, which must be few.
fn contents<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, LayerError> {
    let size = entry.size();
    if size > Limits::EXTENSION_BYTES {
        return Err(LayerError::TooLarge { what: "bytes in an extended header", limit: Limits::EXTENSION_BYTES });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(LayerError::from_read)?;
    if bytes.len() as u64 != size {
        return Err(LayerError::Archive { source: io::ErrorKind::UnexpectedEof.into() });
    }
    Ok(bytes)
}

/// A GNU long name ends with a zero byte.
fn terminated(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let mut read = 0;
            drop(walk(&bytes[..], 16, |_, from| {
                read += io::copy(from, &mut io::sink()).map_err(LayerError::from_read)?;
                Ok(())
            }));
            prop_assert!(read <= bytes.len() as u64);
        }

        #[test]
        fn a_valid_archive_with_changed_bytes_is_walked_without_panic(at in 0usize..1024, to: u8) {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_cksum();
            builder.append_data(&mut header, "a/file", &b"hello"[..]).unwrap();
            let mut bytes = builder.into_inner().unwrap();
            bytes[at] = to;
            drop(walk(&bytes[..], 16, |_, from| {
                io::copy(from, &mut io::sink()).map_err(LayerError::from_read).map(drop)
            }));
        }
    }

    #[test]
    fn a_long_name_of_any_length_costs_little_memory() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 33);
        header.set_cksum();
        let bytes = header.as_bytes().chain(io::repeat(b'a'));
        assert!(matches!(walk(bytes, 16, |_, _| Ok(())), Err(LayerError::TooLarge { .. })));
    }
}
