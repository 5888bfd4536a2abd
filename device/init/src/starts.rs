//! Counts the starts of a confirmed system that did not come up. The loader counts those of a system on trial; once it is confirmed, nobody
//! would see that its slot has been damaged since: the kernel panics, the machine restarts, and the loader chooses the same entry again.
//!
//! The count is in the state, since writing it anew at each start must not touch the names that the loader reads. A start counts until the
//! system takes the count away, which the updater does once it has run for a minute or restarts the machine by itself.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use protocol_types::boot::BootEntry;

use crate::kernel::read_start;

/// In a folder that the system makes at its first start.
const FILE: &str = "mbl/starts";
/// The longest that is read.
const MAX_BYTES: usize = 64;

/// Starts in a row that did not last, after which the next one gives way. Somebody who turns a machine off and on again within a minute
/// rarely does so five times.
pub const MOST: u32 = 5;

/// Counts this start of `entry`; how many before it, in a row, did not last.
///
/// # Errors
/// If the state does not keep the count; without the folder, [`io::ErrorKind::NotFound`].
pub fn count(state: &Path, entry: BootEntry) -> io::Result<u32> {
    let path = state.join(FILE);
    let before = match read_start(&path, MAX_BYTES + 1) {
        Ok(bytes) => counted(&bytes, entry),
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{entry} {}", before.saturating_add(1))?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(before)
}

/// What was counted of this entry; of another one, or in other words, nothing.
fn counted(bytes: &[u8], entry: BootEntry) -> u32 {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let Some((name, number)) = text.and_then(|text| text.split_once(' ')) else { return 0 };
    if BootEntry::parse(name) == Some(entry) { number.parse().unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str) -> BootEntry {
        BootEntry::parse(name).unwrap()
    }

    #[test]
    fn starts_count_until_another_system_starts_or_this_one_came_up() {
        let state = tempfile::tempdir().unwrap();
        let (old, new) = (entry("mbl-4-a.efi"), entry("mbl-5-b.efi"));
        assert_eq!(count(state.path(), new).unwrap_err().kind(), io::ErrorKind::NotFound, "the first start of all");
        fs::create_dir(state.path().join("mbl")).unwrap();
        for before in 0..=MOST {
            assert_eq!(count(state.path(), new).unwrap(), before);
        }
        assert_eq!(count(state.path(), old).unwrap(), 0);
        assert_eq!(count(state.path(), new).unwrap(), 0);
        assert_eq!(count(state.path(), new).unwrap(), 1);
        fs::remove_file(state.path().join(FILE)).unwrap();
        assert_eq!(count(state.path(), new).unwrap(), 0);
    }

    #[test]
    fn a_count_that_cannot_be_understood_begins_anew() {
        let new = entry("mbl-5-b.efi");
        assert_eq!(counted(b"mbl-5-b.efi 3\n", new), 3);
        for bytes in
            [&b""[..], b"mbl-5-b.efi 3", b"mbl-5-b.efi -3\n", b"mbl-5-b.efi 99999999999\n", b"\xff 3\n", b"3\n"]
        {
            assert_eq!(counted(bytes, new), 0, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = counted(&bytes, entry("mbl-5-b.efi"));
        }
    }
}
