//! The boot partition of a real board: a FAT32 volume that is never mounted. Its names change by steps of which each may be the last
//! before a power cut. Never touches the content of a boot entry: bytes go into the staged file only.
//!
//! The library `fatfs` does each change in memory, on top of an `overlay`; `order` then says in which order the changed
//! sectors reach the medium, with a flush after each batch. Bytes of the staged file go straight to its clusters, whose places are
//! looked up once. So no more than the changed part of the table is ever in memory, and no chain is walked once for every block.

mod dates;
mod folder;
pub mod geometry;
mod lost;
mod order;
mod overlay;

#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use fatfs::{Dir, FileSystem, FsOptions};
use geometry::{Geometry, Purpose, SECTOR, entry};
use order::{Batch, Kind, batches};
use overlay::{Change, Overlay, Run, View, read_sector};
use rustix::fs::{Advice, fadvise};

/// The file in the boot partition that a new entry grows in; the loader ignores the name.
pub const STAGED: &str = "mbl-staged.tmp";
/// Where the loader looks for entries.
const FOLDER: &str = "EFI/Linux";
/// A bound for the files beside the entries.
const MOST_NAMES: usize = 1024;
/// The longest run that is asked of the library at once; its clusters are at most this long.
const PIECE: usize = 64 * 1024;
/// Files whose clusters are remembered.
const KNOWN: usize = 2;

/// An open boot partition.
#[derive(Debug)]
pub struct Esp {
    medium: File,
    length: u64,
    geometry: Geometry,
    /// Where the bytes of the files that were used last are, the newest first: the staged one, and the entry that it is made from.
    known: RefCell<Vec<Arc<Located>>>,
}

#[derive(Debug)]
struct Located {
    name: String,
    bytes: u64,
    runs: Vec<Run>,
}

/// A folder of the volume as an operation sees it.
type Folder<'f, 'v> = Dir<'f, View<'v>>;

impl Esp {
    /// Uses the volume on `medium`.
    ///
    /// # Errors
    /// If it is no FAT32 that has the folder for boot entries.
    pub fn new(mut medium: File) -> io::Result<Self> {
        let length = medium.seek(SeekFrom::End(0))?;
        let boot = read_sector(&medium, 0)?;
        let geometry = Geometry::parse(&boot, length).map_err(io::Error::other)?;
        let esp = Self { medium, length, geometry, known: RefCell::default() };
        esp.list()?;
        Ok(esp)
    }

    /// Frees what power cuts left taken; returns how many clusters that were.
    ///
    /// # Errors
    /// If the medium fails, or the volume is not understood in whole; it then stays as it is.
    pub fn reclaim(&mut self) -> io::Result<u64> {
        let lost::Found { clusters, batches } = lost::find(&self.medium, &self.geometry)?;
        self.write(batches)?;
        Ok(clusters)
    }

    /// The names of the files in the folder of boot entries.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let look = |folder: &Folder<'_, '_>, _: &Overlay<'_>| {
            let mut names = Vec::new();
            for entry in folder.iter() {
                let entry = entry?;
                if entry.is_file() {
                    names.push(entry.file_name());
                }
                if names.len() > MOST_NAMES {
                    return Err(io::Error::other("its folder of boot entries has no end"));
                }
            }
            Ok(names)
        };
        Ok(self.operate(look)?.0)
    }

    /// The bytes of a file; `None` if there is no such file.
    ///
    /// # Errors
    /// If the volume cannot be read, or the file has no whole chain of clusters.
    pub fn size(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.locate(name)?.map(|located| located.bytes))
    }

    /// Reads from a file; fewer bytes than `into` holds only at its end.
    ///
    /// # Errors
    /// If there is no such file, or it cannot be read.
    pub fn read_at(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let located = self.locate(name)?.ok_or(io::ErrorKind::NotFound)?;
        let mut done = 0;
        for (start, bytes) in located.pieces(at, into.len()) {
            let Some(into) = into.get_mut(done..done + bytes) else { break };
            let read = read_full(&self.medium, start, into)?;
            done += read;
            if read < bytes {
                break;
            }
        }
        Ok(done)
    }

    /// Writes into the staged file. Its clusters are nobody else's, so the order of these writes does not matter.
    ///
    /// # Errors
    /// If it is another file, the volume is full, or the medium fails.
    pub fn write_at(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        staged_only(name)?;
        let end = u64::try_from(bytes.len()).ok().and_then(|length| at.checked_add(length));
        let end = end.ok_or(io::ErrorKind::FileTooLarge)?;
        if self.size(name)?.is_none_or(|size| size < end) {
            self.set_len(name, end)?;
        }
        let located = self.locate(name)?.ok_or(io::ErrorKind::NotFound)?;
        let mut rest = bytes;
        for (start, length) in located.pieces(at, bytes.len()) {
            let (piece, later) =
                rest.split_at_checked(length).ok_or_else(|| io::Error::other("a piece goes beyond its file"))?;
            self.medium.write_all_at(piece, start)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Gives the staged file this length; what lies in an extension is any bytes.
    ///
    /// # Errors
    /// If it is another file, the volume is full, or the medium fails.
    pub fn set_len(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        staged_only(name)?;
        let wanted = u32::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let found = self.size(name)?;
        if found == Some(bytes) {
            return Ok(());
        }
        let shrinks = found.is_some_and(|found| found > bytes);
        if !shrinks {
            self.look_for_room(found.unwrap_or(0), bytes)?;
        }
        let change = |folder: &Folder<'_, '_>, overlay: &Overlay<'_>| {
            let mut file = folder.create_file(name)?;
            if shrinks {
                file.seek(SeekFrom::Start(bytes))?;
                file.truncate()?;
            } else {
                lengthen(&mut file, overlay, wanted)?;
            }
            file.flush()
        };
        let ((), changes) = self.operate(change)?;
        self.commit(&changes, if shrinks { Kind::Shrink } else { Kind::Grow })
    }

    /// Flushes, and lets go of cached copies so that the next read asks the medium.
    ///
    /// # Errors
    /// If the medium fails.
    pub fn sync(&self) -> io::Result<()> {
        self.medium.sync_data()?;
        Ok(fadvise(&self.medium, 0, None, Advice::DontNeed)?)
    }

    /// Gives a file another name, by one sector.
    ///
    /// # Errors
    /// If there is no such file, its folder is too crowded for a change of one sector, or the medium fails.
    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let changes = self.renamed(from, to)?;
        self.commit(&changes, Kind::Rename)
    }

    /// The changes of a rename. The library takes the first free place for the new name; if that is in another sector than the old
    /// one, it is asked again with nothing but the place of the old name to choose from.
    fn renamed(&self, from: &str, to: &str) -> io::Result<Vec<Change>> {
        let mut changes = self.renamed_in_place(from, to)?;
        self.pack(&mut changes)?;
        Ok(changes)
    }

    /// Moves the names of the folder together in the one sector that changes anyway, if all of them are there. The firmware puts
    /// each new name behind all others and uses no place again, so without this the loader's own renames would soon need a second
    /// sector, and a cut between the two would leave half a name.
    fn pack(&self, changes: &mut [Change]) -> io::Result<()> {
        let mut in_folder = changes.iter_mut().filter(|change| self.geometry.purpose(change.sector) == Purpose::Data);
        let (Some(change), None) = (in_folder.next(), in_folder.next()) else { return Ok(()) };
        let look = |folder: &Folder<'_, '_>, overlay: &Overlay<'_>| {
            for name in folder.iter() {
                name?;
            }
            Ok(overlay.read_since())
        };
        let read = self.operate(look)?.0;
        let elsewhere = read.iter().any(|(sector, names)| *sector != change.sector && folder::has_names(names));
        if folder::is_first(&change.after) && !elsewhere {
            change.after = folder::pack(&change.after);
        }
        Ok(())
    }

    fn renamed_in_place(&self, from: &str, to: &str) -> io::Result<Vec<Change>> {
        let change = |folder: &Folder<'_, '_>, _: &Overlay<'_>| folder.rename(from, folder, to);
        let ((), changes) = self.operate(change)?;
        let in_folder = |change: &&Change| self.geometry.purpose(change.sector) == Purpose::Data;
        if changes.iter().filter(in_folder).count() > 1
            && let Some(old) = changes.iter().filter(in_folder).find(|change| change.removes())
        {
            return Ok(self.operate_in(Some(old.sector), change)?.1);
        }
        Ok(changes)
    }

    /// Takes a file out of use. An entry becomes the staged file if there is none: that is one sector, and its clusters and what
    /// the next entry has in common with it are used again.
    ///
    /// # Errors
    /// If the volume cannot be read or changed.
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        if name != STAGED && self.size(STAGED)?.is_none() && self.size(name)?.is_some() {
            match self.rename(name, STAGED) {
                // A crowded folder: the name goes all the same, only in more steps.
                Err(e) if e.kind() == io::ErrorKind::Other => {}
                done => return done,
            }
        }
        let change = |folder: &Folder<'_, '_>, _: &Overlay<'_>| match folder.remove(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        let ((), changes) = self.operate(change)?;
        self.commit(&changes, Kind::Shrink)
    }

    /// Does something in the folder, in memory; returns the changed sectors.
    fn operate<T>(
        &self,
        work: impl FnOnce(&Folder<'_, '_>, &Overlay<'_>) -> io::Result<T>,
    ) -> io::Result<(T, Vec<Change>)> {
        self.operate_in(None, work)
    }

    /// The same, with new names only in free places of one sector.
    fn operate_in<T>(
        &self,
        places_in: Option<u64>,
        work: impl FnOnce(&Folder<'_, '_>, &Overlay<'_>) -> io::Result<T>,
    ) -> io::Result<(T, Vec<Change>)> {
        let overlay = Overlay::new(&self.medium, &self.geometry, places_in);
        let result = {
            let volume = FileSystem::new(View(&overlay), FsOptions::new().time_provider(&dates::FirstDay))?;
            let result = {
                let folder = volume.root_dir().open_dir(FOLDER)?;
                overlay.fix_what_was_read();
                work(&folder, &overlay)?
            };
            volume.unmount()?;
            result
        };
        Ok((result, overlay.changes()?))
    }

    /// The batches in which changes must be written.
    fn plan(&self, changes: &[Change], kind: Kind) -> io::Result<Vec<Batch>> {
        let is_free = |sector| {
            let (table, number) = self.geometry.entry_of(sector);
            Ok(entry(&read_sector(&self.medium, table)?, number) == 0)
        };
        batches(&self.geometry, changes, kind, is_free)
    }

    fn commit(&mut self, changes: &[Change], kind: Kind) -> io::Result<()> {
        self.write(self.plan(changes, kind)?)
    }

    /// Writes batches, each flushed before the next.
    fn write(&mut self, batches: Vec<Batch>) -> io::Result<()> {
        // Whatever happens now, what was known of places may no longer hold.
        self.known.take();
        for batch in batches {
            for (sector, bytes) in batch {
                self.medium.write_all_at(&bytes, sector * SECTOR as u64)?;
            }
            self.medium.sync_data()?;
        }
        Ok(())
    }

    /// Refuses a growth that would end half way.
    fn look_for_room(&self, from: u64, to: u64) -> io::Result<()> {
        let clusters = |bytes: u64| bytes.div_ceil(self.geometry.cluster_bytes());
        // One more, should the folder itself need it.
        let needed = clusters(to).saturating_sub(clusters(from)) + 1;
        let mut free = 0;
        for (sector, numbers) in self.geometry.table_entries() {
            let table = read_sector(&self.medium, sector)?;
            free += numbers.filter(|number| entry(&table, *number) == 0).map(|_| 1_u64).sum::<u64>();
            if free >= needed {
                return Ok(());
            }
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    /// Where the bytes of a file are; `None` if there is no such file.
    fn locate(&self, name: &str) -> io::Result<Option<Arc<Located>>> {
        if let Some(known) = self.known.borrow().iter().find(|known| known.name == name) {
            return Ok(Some(Arc::clone(known)));
        }
        let look = |folder: &Folder<'_, '_>, overlay: &Overlay<'_>| {
            let mut file = match folder.open_file(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
            let bytes = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(0))?;
            let mut piece = vec![0; PIECE];
            let runs = overlay.trace(|| {
                while file.read(&mut piece)? > 0 {}
                Ok(())
            })?;
            Ok(Some((bytes, runs)))
        };
        let Some((bytes, runs)) = self.operate(look)?.0 else { return Ok(None) };
        let mapped: u64 = runs.iter().map(|run| run.bytes).sum();
        let inside = runs.iter().all(|run| run.start + run.bytes <= self.length);
        if mapped != bytes || !inside {
            return Err(io::Error::other("its chain of clusters is broken"));
        }
        let located = Arc::new(Located { name: name.to_owned(), bytes, runs });
        let mut known = self.known.borrow_mut();
        known.insert(0, Arc::clone(&located));
        known.truncate(KNOWN);
        Ok(Some(located))
    }
}

impl Located {
    /// Where the bytes from `at` on are, up to `length` of them or the end of the file.
    fn pieces(&self, at: u64, length: usize) -> Vec<(u64, usize)> {
        let end = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)).min(self.bytes);
        let (mut pieces, mut first) = (Vec::new(), 0);
        for run in &self.runs {
            let (from, to) = (at.max(first), end.min(first + run.bytes));
            if from < to {
                pieces.push((run.start + (from - first), usize::try_from(to - from).unwrap_or(0)));
            }
            first += run.bytes;
        }
        pieces
    }
}

/// Gives a file more clusters, up to `wanted` bytes, without writing to them: its bytes come later.
fn lengthen(file: &mut fatfs::File<'_, View<'_>>, overlay: &Overlay<'_>, wanted: u32) -> io::Result<()> {
    let zeros = vec![0; PIECE];
    let mut at = file.seek(SeekFrom::End(0))?;
    let grow = || {
        while at < u64::from(wanted) {
            let rest = usize::try_from(u64::from(wanted) - at).unwrap_or(PIECE).min(PIECE);
            let written = file.write(zeros.get(..rest).unwrap_or_default())?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += u64::try_from(written).map_err(io::Error::other)?;
        }
        Ok(())
    };
    overlay.trace(grow).map(drop)
}

/// Reads until `into` is full or the file ends.
///
/// # Errors
/// If the file cannot be read.
pub fn read_full(file: &File, mut at: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(n) => {
                done += n;
                at += u64::try_from(n).map_err(io::Error::other)?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Bytes go into the staged file and into no boot entry.
fn staged_only(name: &str) -> io::Result<()> {
    if name == STAGED {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "only the staged file may be written on the boot partition",
        ))
    }
}
