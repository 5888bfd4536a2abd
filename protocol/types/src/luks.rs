//! Whether a partition holds an encrypted state, from the places where its headers would be. Never opens anything.
//!
//! The label of a LUKS2 header says how far a state has come, so that a power cut while it is made, or a wish for a factory
//! reset, is seen before any key is asked for. The label is not authenticated; whoever can write it could as well wipe the disk.

use crate::recovery::VolumeId;

/// What the state partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// No header in any of the places: a new or lost partition.
    None,
    /// A state whose making was not finished: nothing was ever kept in it.
    Unfinished,
    /// A state that is to be forgotten.
    Reset,
    /// A state, or something else of LUKS that is not ours to wipe.
    Present,
}

/// The label while a state is made.
pub const UNFINISHED: &str = "mbl-unfinished";
/// The label of a finished state.
pub const FINISHED: &str = "mbl-state";
/// The label that a factory reset leaves.
pub const RESET: &str = "mbl-reset";

/// Where headers may stand: the first, and the second copy at each offset that the format allows (LUKS2 on-disk format, 2.1).
pub const PLACES: [u64; 10] =
    [0, 0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
/// How much of each place is looked at.
pub const BYTES: usize = 512;

const FIRST: &[u8; 6] = b"LUKS\xba\xbe";
const SECOND: &[u8; 6] = b"SKUL\xba\xbe";
const VERSION_2: [u8; 2] = [0, 2];
/// Behind salt and label; text that is padded with zeros.
const UUID: std::ops::Range<usize> = 168..208;
/// Behind signature, version, header size and sequence number.
const LABEL: std::ops::Range<usize> = 24..72;

/// Reads what stands in [`PLACES`], in that order; a place that the partition is too small for is left out.
pub fn examine<'a>(places: impl IntoIterator<Item = &'a [u8]>) -> Header {
    let mut places = places.into_iter();
    let first = places.next().unwrap_or_default();
    // Where the first copy is gone the second speaks for it: power may fail while a header that may go is overwritten. One that may
    // not is damaged then, and not ours to wipe.
    let header = if first.starts_with(FIRST) { Some(first) } else { places.find(|place| place.starts_with(SECOND)) };
    match header.map(label) {
        None => Header::None,
        Some(Some(UNFINISHED)) => Header::Unfinished,
        Some(Some(RESET)) => Header::Reset,
        Some(Some(_) | None) => Header::Present,
    }
}

/// The UUID in a header of either copy; none in what is no header of LUKS2.
pub fn volume(header: &[u8]) -> Option<VolumeId> {
    if !header.starts_with(FIRST) && !header.starts_with(SECOND) {
        return None;
    }
    text(header, UUID)?.parse().ok()
}

fn label(header: &[u8]) -> Option<&str> {
    text(header, LABEL)
}

fn text(header: &[u8], field: std::ops::Range<usize>) -> Option<&str> {
    if header.get(6..8)? != VERSION_2 {
        return None;
    }
    std::str::from_utf8(header.get(field)?.split(|b| *b == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(version: u8, label: &str) -> Vec<u8> {
        let mut bytes = FIRST.to_vec();
        bytes.extend([0, version]);
        bytes.resize(24, 1);
        bytes.extend(label.as_bytes());
        bytes.resize(BYTES, 0);
        bytes
    }

    #[test]
    fn the_label_says_how_far_a_state_has_come() {
        let examined = |label| examine([header(2, label).as_slice()]);
        assert_eq!(examined(UNFINISHED), Header::Unfinished);
        assert_eq!(examined(RESET), Header::Reset);
        assert_eq!(examined(FINISHED), Header::Present);
        assert_eq!(examined(""), Header::Present);
        assert_eq!(examine([header(1, UNFINISHED).as_slice()]), Header::Present, "LUKS1 has no label");
    }

    #[test]
    fn a_volume_goes_by_the_uuid_in_either_copy_of_its_header() {
        const NAME: &[u8; 36] = b"7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c11";
        let mut bytes = header(2, FINISHED);
        assert_eq!(volume(&bytes), None);
        bytes[168..204].copy_from_slice(NAME);
        let found = volume(&bytes).unwrap();
        assert_eq!(found.as_str().as_bytes(), NAME);
        bytes[..6].copy_from_slice(SECOND);
        assert_eq!(volume(&bytes), Some(found));
        bytes[..6].fill(0);
        assert_eq!(volume(&bytes), None);
        assert_eq!(volume(b"LUKS"), None);
    }

    #[test]
    fn an_empty_partition_has_no_state() {
        assert_eq!(examine(PLACES.map(|_| [0; BYTES]).iter().map(<[u8; BYTES]>::as_slice)), Header::None);
        assert_eq!(examine([]), Header::None);
    }

    #[test]
    fn a_state_whose_first_header_was_lost_is_not_taken_for_an_empty_partition() {
        for place in 1..PLACES.len() {
            let mut places = PLACES.map(|_| [0; BYTES]);
            places[place][..6].copy_from_slice(SECOND);
            assert_eq!(examine(places.iter().map(<[u8; BYTES]>::as_slice)), Header::Present);
        }
    }

    #[test]
    fn a_header_that_may_go_may_also_be_half_gone() {
        for (label, expected) in [(RESET, Header::Reset), (UNFINISHED, Header::Unfinished), (FINISHED, Header::Present)]
        {
            let mut second = header(2, label);
            second[..6].copy_from_slice(SECOND);
            assert_eq!(examine([[0; BYTES].as_slice(), &second]), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(places: Vec<Vec<u8>>) {
            let _ = examine(places.iter().map(Vec::as_slice));
        }
    }
}
