//! The count of a confirmed system's starts that did not last, a file in the state. The initrd counts each start, and the updater says how
//! far it came. Never decides what follows from the count.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use protocol_types::boot::BootEntry;

const FILE: &str = "starts";
const TEMPORARY: &str = "starts.new";
/// The longest that is read.
const MAX_BYTES: u64 = 64;
/// What the updater adds to a start that came up.
const CAME_UP: &str = "up";

/// How often a system was started in a row without lasting (`docs/formats/boot.md`, "Starts that do not last").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartCount {
    /// The system's boot entry.
    pub entry: BootEntry,
    /// The sum over its starts, of which some count for more.
    pub number: u32,
    /// Whether the newest start came up, and counts for less because of that.
    pub came_up: bool,
}

impl StartCount {
    /// What a start counts that did not come up.
    pub const NOT_UP: u32 = 4;
    /// What a start counts that came up and did not last. Devices are turned on for a minute and off again; not so often in a row.
    pub const NOT_LASTING: u32 = 1;

    /// What stands in `folder`; none if there is nothing, or nothing that can be understood.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn load(folder: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(folder.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    /// Counts a start of `entry` in `folder`; what stood there of this entry before it.
    ///
    /// # Errors
    /// If the folder does not keep it; if there is no such folder, [`io::ErrorKind::NotFound`].
    pub fn begin(folder: &Path, entry: BootEntry) -> io::Result<u32> {
        let before = Self::load(folder)?.filter(|count| count.entry == entry).map_or(0, |count| count.number);
        Self { entry, number: before.saturating_add(Self::NOT_UP), came_up: false }.save(folder)?;
        Ok(before)
    }

    /// The start that was counted last has come up.
    ///
    /// # Errors
    /// If the folder does not keep it.
    pub fn note_up(folder: &Path) -> io::Result<()> {
        match Self::load(folder)?.filter(|count| !count.came_up) {
            None => Ok(()),
            Some(count) => {
                let number = count.number.saturating_sub(Self::NOT_UP - Self::NOT_LASTING);
                Self { number, came_up: true, ..count }.save(folder)
            }
        }
    }

    /// The start that was counted last has lasted, so nothing counts any more.
    ///
    /// # Errors
    /// If the file is there and cannot be removed.
    pub fn forget(folder: &Path) -> io::Result<()> {
        match fs::remove_file(folder.join(FILE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let mut words = text.split(' ');
        let (entry, number) = (BootEntry::parse(words.next()?)?, words.next()?.parse().ok()?);
        let came_up = match (words.next(), words.next()) {
            (None, _) => false,
            (Some(CAME_UP), None) => true,
            (Some(_), _) => return None,
        };
        Some(Self { entry, number, came_up })
    }

    fn save(&self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join(TEMPORARY);
        let mut file = File::create(&temporary)?;
        let came_up = if self.came_up { format!(" {CAME_UP}") } else { String::new() };
        writeln!(file, "{} {}{came_up}", self.entry, self.number)?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(FILE))?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str) -> BootEntry {
        BootEntry::parse(name).unwrap()
    }

    #[test]
    fn starts_count_until_another_system_starts_or_this_one_lasts() {
        let (state, other) = (tempfile::tempdir().unwrap(), Path::new("/nowhere"));
        let (old, new) = (entry("mbl-4-a.efi"), entry("mbl-5-b.efi"));
        let begin = |entry| StartCount::begin(state.path(), entry).unwrap();
        assert_eq!(
            StartCount::begin(other, new).unwrap_err().kind(),
            io::ErrorKind::NotFound,
            "the first start of all"
        );
        assert_eq!([begin(new), begin(new), begin(new)], [0, 4, 8]);
        assert_eq!([begin(old), begin(new), begin(new)], [0, 0, 4]);
        StartCount::forget(state.path()).unwrap();
        assert_eq!(begin(new), 0);
    }

    #[test]
    fn a_start_that_came_up_counts_for_less_however_often_that_is_said() {
        let state = tempfile::tempdir().unwrap();
        let new = entry("mbl-5-b.efi");
        StartCount::note_up(state.path()).unwrap();
        assert_eq!(StartCount::load(state.path()).unwrap(), None, "a board that counts nothing");
        for before in 0..3 {
            assert_eq!(StartCount::begin(state.path(), new).unwrap(), before);
            StartCount::note_up(state.path()).unwrap();
            StartCount::note_up(state.path()).unwrap();
        }
    }

    #[test]
    fn a_count_that_cannot_be_understood_begins_anew() {
        let read = |bytes| StartCount::parse(bytes).map(|count| (count.number, count.came_up));
        assert_eq!(read(b"mbl-5-b.efi 3\n"), Some((3, false)));
        assert_eq!(read(b"mbl-5-b.efi 3 up\n"), Some((3, true)));
        for bytes in [
            &b""[..],
            b"mbl-5-b.efi 3",
            b"mbl-5-b.efi -3\n",
            b"mbl-5-b.efi 99999999999\n",
            b"\xff 3\n",
            b"3\n",
            b"mbl-5-b.efi 3 down\n",
            b"mbl-5-b.efi 3 up up\n",
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = StartCount::parse(&bytes);
        }
    }
}
