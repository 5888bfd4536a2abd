//! What happened to the disk of a board, in order: writes of sectors, flushes, and the files of its state. Never decides anything.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, ensure};
use protocol_types::SecurityVersion;

use super::{
    board::Board,
    sectors::{Content, Disk, Library, Part, Place, SECTOR, Sector},
    strace::Call,
};

/// Files of the state and of the key store, by their paths below the device's folder. They lie in another file system than the
/// partitions that are replayed, which keeps each of them whole: the name of a file changes at once or not at all.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Folders of the device whose files count.
const FOLDERS: [&str; 2] = ["state/updater", "keys"];

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Sectors of a partition were written, from the one with this number on.
    Write { part: Part, first: usize, contents: Vec<Content> },
    /// What was written to a partition lasts.
    Flush(Part),
    /// The files are these from now on.
    Files(Arc<Files>),
    /// They last.
    FilesLast,
    /// From now on these systems may start, by their numbers.
    May(Vec<usize>),
}

/// The history of a board, while it is written.
#[derive(Debug)]
pub(super) struct History {
    pub(super) events: Vec<Event>,
    /// What its disk holds now, flushed or not.
    pub(super) now: Disk,
    files: Files,
    /// What was written to files that have no lasting name yet, and whether it was flushed.
    open: BTreeMap<PathBuf, (Vec<u8>, bool)>,
}

impl History {
    pub(super) fn new(now: Disk, files: Files) -> Self {
        Self { events: Vec::new(), now, files, open: BTreeMap::new() }
    }

    /// Adds sectors that somebody wrote to a partition.
    pub(super) fn write(&mut self, part: Part, first: usize, contents: Vec<Content>) {
        for (sector, content) in (first..).zip(&contents) {
            self.now.set(Place { part, sector }, *content);
        }
        self.events.push(Event::Write { part, first, contents });
    }

    /// Adds the calls of one life of the device.
    pub(super) fn add(&mut self, board: &Board, library: &mut Library, calls: Vec<Call>) -> anyhow::Result<()> {
        for call in calls {
            match call {
                Call::Write { path, at, bytes } => match board.part(&path) {
                    Some(part) => self.add_write(library, part, at, &bytes),
                    None => {
                        let name = file(board, &path)?;
                        let (content, flushed) = self.open.entry(name).or_default();
                        content.resize(content.len().max(at + bytes.len()), 0);
                        content[at..at + bytes.len()].copy_from_slice(&bytes);
                        *flushed = false;
                    }
                },
                Call::SetLength { path, bytes } => {
                    ensure!(board.part(&path).is_none(), "a partition would change its length");
                    let (content, flushed) = self.open.entry(file(board, &path)?).or_default();
                    content.resize(bytes, 0);
                    *flushed = false;
                }
                Call::Flush { path } => match board.part(&path) {
                    Some(part) => self.events.push(Event::Flush(part)),
                    None if FOLDERS.iter().any(|folder| path == board.root.join("mbl").join(folder)) => {
                        self.events.push(Event::FilesLast);
                    }
                    None => {
                        if let Some((_, flushed)) = self.open.get_mut(&file(board, &path)?) {
                            *flushed = true;
                        }
                    }
                },
                Call::Rename { from, to } => {
                    let (content, flushed) =
                        self.open.remove(&file(board, &from)?).context("a file is renamed that nobody wrote")?;
                    ensure!(flushed, "{} gets its name before its bytes last", to.display());
                    self.files.insert(file(board, &to)?, content);
                    self.events.push(Event::Files(Arc::new(self.files.clone())));
                }
                Call::Remove { path } => {
                    self.files.remove(&file(board, &path)?);
                    self.events.push(Event::Files(Arc::new(self.files.clone())));
                }
            }
        }
        Ok(())
    }

    /// A write of bytes is one of whole sectors: what stands beside them there is written again.
    fn add_write(&mut self, library: &mut Library, part: Part, at: usize, bytes: &[u8]) {
        let (first, end) = (at / SECTOR, (at + bytes.len()).div_ceil(SECTOR));
        let before = (first..end).flat_map(|sector| *library.sector(self.now.get(Place { part, sector })));
        let mut whole: Vec<u8> = before.collect();
        let from = at - first * SECTOR;
        whole[from..from + bytes.len()].copy_from_slice(bytes);
        self.write(part, first, library.numbers(&whole));
    }
}

/// The path of a file below the device's folder.
fn file(board: &Board, path: &std::path::Path) -> anyhow::Result<PathBuf> {
    let name = path.strip_prefix(board.root.join("mbl")).ok();
    let known = name.filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder)));
    known.map(ToOwned::to_owned).with_context(|| format!("{} changes, and nobody thought of it", path.display()))
}

/// The files of a board as they are.
pub(super) fn files_of(board: &Board) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(board.root.join("mbl").join(folder)).context("cannot list the state")? {
            let name = PathBuf::from(folder).join(entry?.file_name());
            let bytes = fs::read(board.root.join("mbl").join(&name)).context("cannot read the state")?;
            files.insert(name, bytes);
        }
    }
    Ok(files)
}

/// Makes the files of a board these.
pub(super) fn write_files(board: &Board, files: &Files) -> anyhow::Result<()> {
    for (name, _) in files_of(board)?.iter().filter(|(name, _)| !files.contains_key(*name)) {
        fs::remove_file(board.root.join("mbl").join(name)).context("cannot remove a file of the state")?;
    }
    for (name, bytes) in files {
        fs::write(board.root.join("mbl").join(name), bytes).context("cannot write a file of the state")?;
    }
    Ok(())
}

/// The floor in the key store.
pub(super) fn floor(files: &Files) -> SecurityVersion {
    let text = files.get(&PathBuf::from("keys/floor")).and_then(|bytes| std::str::from_utf8(bytes).ok());
    SecurityVersion(text.and_then(|text| text.trim_end().parse().ok()).unwrap_or(0))
}

/// A sector of the ESP by its number on a disk.
pub(super) struct EspOf<'a>(pub(super) &'a Disk, pub(super) &'a Library);

impl super::fat::Sectors for EspOf<'_> {
    fn sector(&self, number: usize) -> Option<&Sector> {
        self.0.part(Part::Esp).get(number).map(|content| self.1.sector(*content))
    }
}
