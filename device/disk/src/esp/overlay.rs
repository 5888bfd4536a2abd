//! A view of a volume that keeps changes in memory, for the length of one operation. Never writes to the medium.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt as _,
};

use super::geometry::{Geometry, NAME, Purpose, REMOVED, SECTOR, Sector};

/// A bound for the reads and writes of one operation: a volume whose chains go in circles ends here.
const MOST_ACCESSES: u32 = 16_000_000;
/// A bound for the pieces of one file: 64 MiB in clusters of one sector, twice.
const MOST_RUNS: usize = 262_144;
/// Sectors that are remembered as they were read.
const MOST_REMEMBERED: usize = 4096;

/// A run of bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// A sector that an operation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) sector: u64,
    pub(super) before: Sector,
    pub(super) after: Sector,
}

/// The changes of one operation on top of a medium.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    medium: &'a File,
    geometry: &'a Geometry,
    /// The one sector of the folder whose free places the library may see; all, if there is none.
    places_in: Option<u64>,
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    at: u64,
    changed: BTreeMap<u64, Sector>,
    remembered: BTreeMap<u64, Sector>,
    /// Sectors whose changes do not count.
    fixed: BTreeSet<u64>,
    is_fixed: bool,
    tracing: Option<Vec<Run>>,
    accesses: u32,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(medium: &'a File, geometry: &'a Geometry, places_in: Option<u64>) -> Self {
        Self { medium, geometry, places_in, inner: RefCell::default() }
    }

    /// Ignores changes of every sector of folders that was read until now. They lead to the folder that is about to be changed, and
    /// the library would only note in them when it was.
    pub(super) fn fix_what_was_read(&self) {
        let mut inner = self.inner.borrow_mut();
        let data: Vec<u64> =
            inner.remembered.keys().copied().filter(|s| self.geometry.is_data(s * SECTOR as u64)).collect();
        inner.fixed.extend(data);
        inner.is_fixed = true;
    }

    /// The sectors of the folder that were read since.
    pub(super) fn read_since(&self) -> Vec<(u64, Sector)> {
        let inner = self.inner.borrow();
        let is_folder = |sector: &u64| self.geometry.purpose(*sector) == Purpose::Data && !inner.fixed.contains(sector);
        inner.remembered.iter().filter(|(sector, _)| is_folder(sector)).map(|(sector, read)| (*sector, *read)).collect()
    }

    /// Runs `work`, during which bytes of files and folders are neither read nor written; returns where they would have been.
    pub(super) fn trace(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<Run>> {
        self.inner.borrow_mut().tracing = Some(Vec::new());
        let result = work();
        let runs = self.inner.borrow_mut().tracing.take().unwrap_or_default();
        result.map(|()| runs)
    }

    /// The sectors that are no longer as the medium has them, in their order.
    pub(super) fn changes(self) -> io::Result<Vec<Change>> {
        let Inner { changed, fixed, .. } = self.inner.into_inner();
        let mut changes = Vec::new();
        for (sector, after) in changed.into_iter().filter(|(sector, _)| !fixed.contains(sector)) {
            let before = read_sector(self.medium, sector)?;
            // The mark of an unclean volume, for one, is set and taken away again.
            if before != after {
                changes.push(Change { sector, before, after });
            }
        }
        Ok(changes)
    }

    /// Where the next access goes if it is one of `bytes` bytes: the sector and the bytes in it; none if it was only traced.
    fn access(&self, bytes: usize) -> io::Result<(Option<(u64, usize)>, usize)> {
        let mut inner = self.inner.borrow_mut();
        inner.accesses += 1;
        if inner.accesses > MOST_ACCESSES {
            return Err(io::Error::other("the volume goes in circles"));
        }
        let at = inner.at;
        let data = self.geometry.is_data(at);
        if let Some(runs) = inner.tracing.as_mut().filter(|_| data) {
            let bytes_long = u64::try_from(bytes).map_err(io::Error::other)?;
            let full = runs.len() >= MOST_RUNS;
            match runs.last_mut().filter(|last| last.start + last.bytes == at) {
                Some(last) => last.bytes += bytes_long,
                None if full => {
                    return Err(io::Error::other("a file is in too many pieces"));
                }
                None => runs.push(Run { start: at, bytes: bytes_long }),
            }
            inner.at += bytes_long;
            return Ok((None, bytes));
        }
        let offset = usize::try_from(at % SECTOR as u64).unwrap_or(0);
        let bytes = bytes.min(SECTOR - offset);
        inner.at += u64::try_from(bytes).map_err(io::Error::other)?;
        Ok((Some((at / SECTOR as u64, offset)), bytes))
    }

    /// The sector as the operation sees it.
    fn sector(&self, sector: u64) -> io::Result<Sector> {
        let mut inner = self.inner.borrow_mut();
        if let Some(found) = inner.changed.get(&sector).or_else(|| inner.remembered.get(&sector)) {
            return Ok(*found);
        }
        let mut read = read_sector(self.medium, sector)?;
        if !self.geometry.leads_somewhere(sector, &read) {
            return Err(io::Error::other("an entry in its table or in a folder leads nowhere"));
        }
        if inner.is_fixed
            && self.places_in.is_some_and(|only| only != sector)
            && self.geometry.purpose(sector) == Purpose::Data
        {
            take_free_places(&mut read);
        }
        if inner.remembered.len() >= MOST_REMEMBERED {
            inner.remembered.clear();
        }
        inner.remembered.insert(sector, read);
        Ok(read)
    }
}

pub(super) fn read_sector(medium: &File, sector: u64) -> io::Result<Sector> {
    let mut bytes = [0; SECTOR];
    medium.read_exact_at(&mut bytes, sector.saturating_mul(SECTOR as u64))?;
    Ok(bytes)
}

/// Lets removed entries look like ones in use. What is only looked at is never written, so the medium does not see this.
fn take_free_places(sector: &mut Sector) {
    for first in sector.iter_mut().step_by(NAME).filter(|first| **first == REMOVED) {
        *first = b'X';
    }
}

impl Change {
    /// Whether entries of a folder were removed here.
    pub(super) fn removes(&self) -> bool {
        let firsts = self.before.iter().zip(&self.after).step_by(NAME);
        firsts.into_iter().any(|(before, after)| *before != REMOVED && *after == REMOVED)
    }
}

/// What the library takes for the volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a>(pub(super) &'a Overlay<'a>);

impl Read for View<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (place, bytes) = self.0.access(into.len())?;
        if let Some((sector, offset)) = place {
            let sector = self.0.sector(sector)?;
            if let Some((into, from)) = into.get_mut(..bytes).zip(sector.get(offset..offset + bytes)) {
                into.copy_from_slice(from);
            }
        }
        Ok(bytes)
    }
}

impl Write for View<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let (place, bytes) = self.0.access(from.len())?;
        if let Some((sector, offset)) = place {
            let mut changed = self.0.sector(sector)?;
            if let Some((into, from)) = changed.get_mut(offset..offset + bytes).zip(from.get(..bytes)) {
                into.copy_from_slice(from);
            }
            self.0.inner.borrow_mut().changed.insert(sector, changed);
        }
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for View<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut inner = self.0.inner.borrow_mut();
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => inner.at.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        inner.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(inner.at)
    }
}
