//! What power cuts left taken on a volume: clusters that no name leads to or that are behind the end of a file, and copies of the
//! table that differ. Never writes, and gives up a volume whose chains it does not understand in whole.

use std::{collections::BTreeSet, fs::File, io};

use super::{
    geometry::{BAD, END, FREE, Geometry, NAME, REMOVED, Sector, entry, set_entry},
    order::Batch,
    overlay::read_sector,
};

/// Attributes of a name (FAT specification, "Directory Structure").
const FOLDER: u8 = 0x10;
const LABEL: u8 = 0x08;
/// Where the note of free clusters has their count, and what marks it as one.
const COUNT_AT: usize = 488;
const NOTE_MARKS: [(usize, &[u8]); 2] = [(0, b"RRaA"), (484, b"rrAa")];

/// What is to be written so that every cluster is free that no name leads to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Clusters that become free.
    pub(super) clusters: u64,
    /// The new ends of chains, then the freed clusters, then the note of how many are free.
    pub(super) batches: Vec<Batch>,
}

/// Looks through the whole volume. No name changes, and no cluster that holds a byte of a file, so whatever part of the result is
/// written leaves every file as it is.
///
/// # Errors
/// If the medium cannot be read, a chain does not end or is shorter than its file, or two names lead to one cluster.
pub(super) fn find(medium: &File, geometry: &Geometry) -> io::Result<Found> {
    let mut walk = Walk {
        medium,
        geometry,
        owned: vec![0; geometry.clusters().div_ceil(64) + 1],
        ends: BTreeSet::new(),
        table: None,
    };
    walk.folders()?;
    let (mut found, mut free) = (Found::default(), 0_u32);
    let (mut ends, mut frees) = (Batch::new(), Batch::new());
    for (place, numbers) in geometry.table_entries() {
        let before = read_sector(medium, place)?;
        let (mut ended, mut freed) = (before, before);
        for number in numbers {
            let cluster = geometry.cluster_of(place, number);
            let value = entry(&before, number);
            if walk.ends.contains(&cluster) {
                set_entry(&mut ended, number, END);
                set_entry(&mut freed, number, END);
            } else if value != FREE && value != BAD && !walk.owns(cluster) {
                set_entry(&mut freed, number, FREE);
                found.clusters += 1;
            }
            free += u32::from(entry(&freed, number) == FREE);
        }
        for copy in geometry.copies(place) {
            if read_sector(medium, copy)? != ended {
                ends.push((copy, ended));
            }
            if freed != ended {
                frees.push((copy, freed));
            }
        }
    }
    let note = read_sector(medium, geometry.info())?;
    let is_note = NOTE_MARKS.iter().all(|(at, mark)| note.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    let mut counted = note;
    if let Some(count) = counted.get_mut(COUNT_AT..COUNT_AT + 4).filter(|_| is_note) {
        count.copy_from_slice(&free.to_le_bytes());
    }
    let note = if counted == note { Batch::new() } else { vec![(geometry.info(), counted)] };
    found.batches.extend([ends, frees, note].into_iter().filter(|batch| !batch.is_empty()));
    Ok(found)
}

/// The walk from the topmost folder through all others.
#[derive(Debug)]
struct Walk<'a> {
    medium: &'a File,
    geometry: &'a Geometry,
    /// One bit a cluster that a name leads to.
    owned: Vec<u64>,
    /// Clusters that are the last of a file, although the table goes on.
    ends: BTreeSet<u32>,
    /// The sector of the table that was read last.
    table: Option<(u64, Sector)>,
}

impl Walk<'_> {
    fn folders(&mut self) -> io::Result<()> {
        let mut waiting = vec![self.chain(self.geometry.topmost(), None)?];
        // Every cluster is owned once, so this ends.
        while let Some(folder) = waiting.pop() {
            for (cluster, length) in self.names(&folder)? {
                let chain = self.chain(cluster, length)?;
                if length.is_none() {
                    waiting.push(chain);
                }
            }
        }
        Ok(())
    }

    /// Where the names in a folder lead to, and how many clusters a file has by its length; a folder has no length.
    fn names(&self, folder: &[u32]) -> io::Result<Vec<(u32, Option<u64>)>> {
        let mut found = Vec::new();
        for sector in folder.iter().flat_map(|cluster| self.geometry.sectors_of(*cluster)) {
            let bytes = read_sector(self.medium, sector)?;
            if !self.geometry.leads_somewhere(sector, &bytes) {
                return Err(io::Error::other("an entry in a folder leads nowhere"));
            }
            for name in bytes.as_chunks::<NAME>().0 {
                let half = |at: usize| {
                    let half = name.get(at..).and_then(|rest| rest.first_chunk());
                    half.map_or(0, |half| u32::from(u16::from_le_bytes(*half)))
                };
                let (attributes, cluster) = (name.get(11).copied().unwrap_or(0), half(20) << 16 | half(26));
                match name[0] {
                    0 => return Ok(found),
                    // No other name begins with a dot than those of the folder itself and of the one above.
                    REMOVED | b'.' => {}
                    _ if attributes & LABEL != 0 || cluster == 0 => {}
                    _ if attributes & FOLDER != 0 => found.push((cluster, None)),
                    _ => {
                        let bytes = u64::from(half(30) << 16 | half(28));
                        found.push((cluster, Some(bytes.div_ceil(self.geometry.cluster_bytes()).max(1))));
                    }
                }
            }
        }
        Ok(found)
    }

    /// The clusters of a chain, which are owned from now on; `length` of them if that is given.
    fn chain(&mut self, first: u32, length: Option<u64>) -> io::Result<Vec<u32>> {
        let (mut chain, mut next) = (Vec::new(), first);
        while next < BAD {
            let whole = length.is_some_and(|length| u64::try_from(chain.len()).is_ok_and(|found| found == length));
            if let Some(last) = chain.last().filter(|_| whole) {
                self.ends.insert(*last);
                return Ok(chain);
            }
            if !self.geometry.is_cluster(next) {
                return Err(io::Error::other("a chain of clusters leads nowhere"));
            }
            if self.owns(next) {
                return Err(io::Error::other("two chains of clusters meet"));
            }
            let (word, bit) = place_of(next);
            if let Some(word) = self.owned.get_mut(word) {
                *word |= 1 << bit;
            }
            chain.push(next);
            next = self.entry(next)?;
        }
        let short = length.is_some_and(|length| u64::try_from(chain.len()).is_ok_and(|found| found < length));
        if next == BAD || short {
            return Err(io::Error::other("a chain of clusters is shorter than its file"));
        }
        Ok(chain)
    }

    fn owns(&self, cluster: u32) -> bool {
        let (word, bit) = place_of(cluster);
        self.owned.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }

    fn entry(&mut self, cluster: u32) -> io::Result<u32> {
        let (sector, number) = self.geometry.entry_for(cluster);
        let table = match self.table.filter(|(read, _)| *read == sector) {
            Some((_, table)) => table,
            None => read_sector(self.medium, sector)?,
        };
        self.table = Some((sector, table));
        Ok(entry(&table, number))
    }
}

fn place_of(cluster: u32) -> (usize, u32) {
    (usize::try_from(cluster / 64).unwrap_or(usize::MAX), cluster % 64)
}
