//! Counts the starts of a confirmed system that did not come up. The loader counts those of a system on trial; once it is confirmed, nobody
//! would see that its slot has been damaged since: the kernel panics, the machine restarts, and the loader chooses the same entry again.
//!
//! The count is in the state, since writing it anew at each start must not touch the names that the loader reads. A start counts until the
//! system takes the count away, which the updater does once it has run for a minute or restarts the machine by itself.

use std::{io, path::Path};

use device_disk::starts::StartCount;
use protocol_types::boot::BootEntry;

/// In a folder that the system makes at its first start.
const FOLDER: &str = "mbl";

/// The count from which the next start gives way: five starts in a row that did not come up, or twenty that did and ended within a minute.
const MOST: u32 = 5 * StartCount::NOT_UP;

/// Counts this start of `entry`; whether too many before it did not last. To look at the other slot takes a while, so if that one is no way
/// out, it is not looked at again in the next few starts.
///
/// # Errors
/// If the state does not keep the count; without the folder, [`io::ErrorKind::NotFound`].
pub fn is_one_too_many(state: &Path, entry: BootEntry) -> io::Result<bool> {
    Ok(is_beyond(StartCount::begin(&state.join(FOLDER), entry)?))
}

const fn is_beyond(before: u32) -> bool {
    before >= MOST && before % MOST < StartCount::NOT_UP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_start_in_a_row_is_one_too_many_and_then_every_fifth() {
        let state = tempfile::tempdir().unwrap();
        let new = BootEntry::parse("mbl-5-b.efi").unwrap();
        std::fs::create_dir(state.path().join(FOLDER)).unwrap();
        let too_many = (1..=12).filter(|_| is_one_too_many(state.path(), new).unwrap());
        assert_eq!(too_many.collect::<Vec<_>>(), [6, 11]);
    }

    #[test]
    fn it_takes_twenty_short_lives_to_count_as_much() {
        let first = (0..).find(|lives| is_beyond(lives * StartCount::NOT_LASTING));
        assert_eq!(first, Some(20));
    }
}
