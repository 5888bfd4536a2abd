//! The record that says from which slot a board's firmware starts (`docs/formats/firmware.md`). Never touches a flash.

use crate::Slot;

/// How often firmware on trial is started: as often as the loader starts a system on trial.
pub const TRIES: usize = 3;

/// A record, as it stands in one of its two places. Its newest valid copy counts; without one, slot a starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareRecord {
    /// Counts the records of a board; the higher one is the newer.
    pub sequence: u32,
    /// The slot that starts.
    pub active: Slot,
    /// Whether the other slot is started in its place, as long as there are tries.
    pub on_trial: bool,
    /// How many tries were used up.
    pub tried: usize,
    /// Whether what slot a and slot b hold was refused by the firmware.
    pub refused: [bool; 2],
}

const MAGIC: [u8; 4] = *b"MBLF";
const FORMAT: u32 = 1;
/// In the place of the slot on trial, and of what the firmware did not note yet: what erased flash holds.
const ERASED: u32 = u32::MAX;
/// Magic, format, sequence, active and trial, over which the checksum goes.
const SUMMED_BYTES: usize = 20;

/// Bytes that are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record of firmware slots: {0}")]
pub struct FirmwareRecordError(&'static str);

impl FirmwareRecord {
    /// The length of a record in bytes.
    pub const BYTES: usize = 44;

    /// A record that the firmware has noted nothing in yet.
    pub const fn new(sequence: u32, active: Slot, on_trial: bool) -> Self {
        Self { sequence, active, on_trial, tried: 0, refused: [false; 2] }
    }

    /// Reads a record from the first bytes of its place.
    ///
    /// # Errors
    /// If it is torn, of another format, or was never written.
    pub fn parse(bytes: &[u8]) -> Result<Self, FirmwareRecordError> {
        let bytes: &[u8; Self::BYTES] = bytes.first_chunk().ok_or(FirmwareRecordError("fewer than 44 bytes"))?;
        let words = bytes.as_chunks().0;
        let [magic, format, sequence, active, trial, checksum, noted @ ..] = words else {
            return Err(FirmwareRecordError("fewer than 44 bytes"));
        };
        let number = |word: &[u8; 4]| u32::from_le_bytes(*word);
        if *magic != MAGIC || number(format) != FORMAT {
            return Err(FirmwareRecordError("another format than 1"));
        }
        if bytes.first_chunk::<SUMMED_BYTES>().map(|summed| crc32fast::hash(summed)) != Some(number(checksum)) {
            return Err(FirmwareRecordError("another checksum"));
        }
        let active = slot(number(active)).ok_or(FirmwareRecordError("no such slot"))?;
        let on_trial = match number(trial) {
            ERASED => false,
            trial if slot(trial) == Some(active.other()) => true,
            _ => return Err(FirmwareRecordError("no slot that can be on trial")),
        };
        let is_noted = |word: &[u8; 4]| number(word) != ERASED;
        let (tries, refused) = noted.split_at_checked(TRIES).unwrap_or_default();
        let tried = tries.iter().filter(|word| is_noted(word)).count();
        let refused = [0, 1].map(|slot| refused.get(slot).is_some_and(is_noted));
        Ok(Self { sequence: number(sequence), active, on_trial, tried, refused })
    }

    /// The bytes of a record that the firmware has noted nothing in; what follows them in the flash is erased.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let trial = if self.on_trial { number(self.active.other()) } else { ERASED };
        let words = [FORMAT, self.sequence, number(self.active), trial].map(u32::to_le_bytes);
        let summed: Vec<u8> = MAGIC.iter().chain(words.as_flattened()).copied().collect();
        let mut bytes = [0xff; Self::BYTES];
        let checksum = crc32fast::hash(&summed).to_le_bytes();
        for (place, byte) in bytes.iter_mut().zip(summed.iter().chain(&checksum)) {
            *place = *byte;
        }
        bytes
    }

    /// The record that counts, and which of the two places has it; none if neither is valid.
    pub fn newest(places: [&[u8]; 2]) -> Option<(usize, Self)> {
        let read = places.map(|bytes| Self::parse(bytes).ok());
        match read {
            [Some(first), Some(second)] if second.sequence > first.sequence => Some((1, second)),
            [Some(first), _] => Some((0, first)),
            [None, second] => second.map(|second| (1, second)),
        }
    }
}

const fn slot(number: u32) -> Option<Slot> {
    match number {
        0 => Some(Slot::A),
        1 => Some(Slot::B),
        _ => None,
    }
}

const fn number(slot: Slot) -> u32 {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format_page() {
        let bytes = FirmwareRecord::new(7, Slot::A, true).to_bytes();
        let mut expected = b"MBLF".to_vec();
        expected.extend([1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        expected.extend([0x02, 0x13, 0x8a, 0x8b]);
        expected.resize(44, 0xff);
        assert_eq!(bytes, *expected, "{bytes:02x?}");
    }

    #[test]
    fn what_the_firmware_notes_is_read() {
        let mut bytes = FirmwareRecord::new(7, Slot::B, true).to_bytes();
        bytes[24..32].fill(0);
        bytes[40..44].fill(0);
        let read = FirmwareRecord::parse(&bytes).unwrap();
        assert_eq!((read.tried, read.refused, read.on_trial, read.active), (2, [false, true], true, Slot::B));
    }

    #[test]
    fn the_newest_valid_copy_counts() {
        let [older, newer] = [7, 8].map(|sequence| FirmwareRecord::new(sequence, Slot::A, false));
        let bytes = [older.to_bytes(), newer.to_bytes()];
        assert_eq!(FirmwareRecord::newest([&bytes[0], &bytes[1]]), Some((1, newer)));
        assert_eq!(FirmwareRecord::newest([&bytes[1], &bytes[0]]), Some((0, newer)));
        let erased = [0xff; FirmwareRecord::BYTES];
        assert_eq!(FirmwareRecord::newest([&bytes[0], &erased]), Some((0, older)));
        assert_eq!(FirmwareRecord::newest([&erased, &bytes[0]]), Some((1, older)));
        assert_eq!(FirmwareRecord::newest([&erased, &[0; 44]]), None);
    }

    #[test]
    fn a_record_that_is_torn_anywhere_is_none() {
        let bytes = FirmwareRecord::new(0x0102_0304, Slot::B, true).to_bytes();
        for cut in 0..24 {
            let mut torn = [0xff; FirmwareRecord::BYTES];
            torn[..cut].copy_from_slice(&bytes[..cut]);
            assert!(FirmwareRecord::parse(&torn).is_err(), "cut at byte {cut}");
        }
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_itself(sequence: u32, in_b: bool, on_trial: bool) {
            let record = FirmwareRecord::new(sequence, if in_b { Slot::B } else { Slot::A }, on_trial);
            prop_assert_eq!(FirmwareRecord::parse(&record.to_bytes()), Ok(record));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = FirmwareRecord::newest([&bytes, &bytes]);
        }

        #[test]
        fn any_flipped_bit_of_what_was_written_is_found(at in 0_usize..24, bit in 0_u8..8) {
            let mut bytes = FirmwareRecord::new(9, Slot::A, true).to_bytes();
            bytes[at] ^= 1 << bit;
            prop_assert!(FirmwareRecord::parse(&bytes).is_err());
        }
    }
}
