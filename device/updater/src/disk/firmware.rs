//! The slots for firmware image packages of a board, and the record that says which one starts (`docs/formats/firmware.md`). Never
//! writes the slot that the running firmware came from.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use protocol_release::document::FirmwarePackage;
use protocol_types::{FirmwareRecord, Slot};
use tracing::warn;

use super::nor::{Bus, ERASE_BYTES, Nor, UNIT};
use crate::files::read_at_most;

/// Where the firmware says from which slot it started, below the root of the system.
const BOOTED: &str = "sys/firmware/devicetree/base/chosen/mbl,firmware-slot";
/// The bytes of the flash, there too: `flash@4000000` of `image/boards/qemu-arm64.dts`.
const FLASH: &str = "sys/devices/platform/4000000.flash/4000000.sram";
/// The two places of the record, each an erase block.
const RECORDS: [u64; 2] = [0, ERASE_BYTES];
/// What is free behind the places of the record.
const SLOTS: [u64; 2] = [16 << 20, 32 << 20];

/// What the updater may read and write of a board's firmware.
#[derive(Debug)]
pub(super) struct FirmwareSlots<B> {
    nor: Nor<B>,
    booted: Slot,
}

impl FirmwareSlots<File> {
    /// Opens the slots of the board whose system is below `root`; `None` if its firmware does not say that it has any, or they
    /// cannot be used: systems are installed all the same, firmware is refused then, and a trial of it ends.
    pub(super) fn open(root: &Path) -> Option<Self> {
        let path = root.join(BOOTED);
        let booted = match read_at_most(&path, 8) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            read => read,
        };
        let booted = match booted.as_deref() {
            Ok(b"a\0") => Slot::A,
            Ok(b"b\0") => Slot::B,
            other => {
                warn!(path = %path.display(), said = ?other, "cannot tell from which slot the firmware started");
                return None;
            }
        };
        let path = root.join(FLASH);
        let flash = OpenOptions::new().read(true).write(true).open(&path);
        let flash =
            flash.inspect_err(|e| warn!(path = %path.display(), cause = %e, "cannot open the slots for firmware"));
        Some(Self::new(flash.ok()?, booted))
    }
}

impl<B: Bus> FirmwareSlots<B> {
    pub(super) const fn new(bus: B, booted: Slot) -> Self {
        Self { nor: Nor::new(bus), booted }
    }

    /// The slot that the running firmware came from.
    pub(super) const fn booted(&self) -> Slot {
        self.booted
    }

    /// The record that counts, if there is one.
    pub(super) fn record(&self) -> io::Result<Option<FirmwareRecord>> {
        Ok(self.newest()?.map(|(_, record)| record))
    }

    fn newest(&self) -> io::Result<Option<(usize, FirmwareRecord)>> {
        let [mut first, mut second] = [[0; FirmwareRecord::BYTES]; 2];
        let [a, b] = RECORDS;
        self.nor.read(a, &mut first)?;
        self.nor.read(b, &mut second)?;
        Ok(FirmwareRecord::newest([&first, &second]))
    }

    /// Writes a record into the place that does not have the newest one: until it is whole, the older one counts.
    pub(super) fn write_record(&self, record: &FirmwareRecord) -> io::Result<()> {
        let [first, second] = RECORDS;
        let place = if matches!(self.newest()?, Some((0, _))) { second } else { first };
        self.nor.erase(place)?;
        self.nor.program(place, &record.to_bytes())?;
        if self.record()? == Some(*record) {
            Ok(())
        } else {
            Err(io::Error::other("the flash does not give back the record as it was written"))
        }
    }

    /// Reads from a slot, up to its end.
    pub(super) fn read(&self, slot: Slot, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(FirmwarePackage::MAX_BYTES.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = room.min(into.len());
        if let Some(into) = into.get_mut(..length) {
            self.nor.read(start(slot) + at, into)?;
        }
        Ok(length)
    }

    /// Writes into the slot that did not start. Bytes of the slot before `at` stay as they are, bytes behind what is written may be
    /// erased: whoever writes does it in order, and looks again.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = u64::try_from(bytes.len()).ok().and_then(|length| at.checked_add(length));
        if end.is_none_or(|end| end > FirmwarePackage::MAX_BYTES) || !at.is_multiple_of(UNIT) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write beyond the end of the firmware slot"));
        }
        let (mut at, mut rest) = (start(self.booted.other()) + at, bytes);
        while !rest.is_empty() {
            let block = at - at % ERASE_BYTES;
            let room = usize::try_from(block + ERASE_BYTES - at).unwrap_or(usize::MAX);
            let (piece, after) = rest.split_at(rest.len().min(room));
            self.write_in_block(block, at, piece)?;
            (at, rest) = (block + ERASE_BYTES, after);
        }
        Ok(())
    }

    fn write_in_block(&self, block: u64, at: u64, piece: &[u8]) -> io::Result<()> {
        let mut before = vec![0; piece.len()];
        self.nor.read(at, &mut before)?;
        if before == piece {
            return Ok(());
        }
        if before.iter().any(|byte| *byte != 0xff) {
            let mut kept = vec![0; usize::try_from(at - block).unwrap_or(0)];
            self.nor.read(block, &mut kept)?;
            self.nor.erase(block)?;
            self.nor.program(block, &kept)?;
        }
        self.nor.program(at, piece)
    }
}

const fn start(slot: Slot) -> u64 {
    let [a, b] = SLOTS;
    match slot {
        Slot::A => a,
        Slot::B => b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::nor::chip::{BLOCK, Chip};

    const FLASH_BYTES: usize = 64 << 20;

    fn flash() -> Vec<u8> {
        let mut flash = vec![0; FLASH_BYTES];
        flash[..FirmwareRecord::BYTES].copy_from_slice(&FirmwareRecord::new(1, Slot::A, false).to_bytes());
        flash
    }

    fn package(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 3).to_le_bytes()[0] ^ (at / 700).to_le_bytes()[0] ^ seed).collect()
    }

    #[test]
    fn a_package_is_written_in_order_over_an_older_one_and_only_into_the_slot_that_did_not_start() {
        let chip = Chip::new(flash());
        let slots = FirmwareSlots::new(&chip, Slot::A);
        for (seed, length) in [(0, 600_000), (9, 300_005)] {
            let package = package(seed, length);
            for (index, piece) in package.chunks(4096 * 3).enumerate() {
                slots.write(index as u64 * 4096 * 3, piece).unwrap();
            }
            let mut read = vec![0; length];
            assert_eq!(slots.read(Slot::B, 0, &mut read).unwrap(), length);
            assert!(read == package, "package {seed} is another one");
        }
        let cells = chip.power_on();
        assert!(cells[16 << 20..24 << 20].iter().all(|byte| *byte == 0), "the slot that started was touched");
        assert!(slots.write(FirmwarePackage::MAX_BYTES, &[1; 8]).is_err());
        assert!(slots.write(u64::MAX - 7, &[1; 8]).is_err());
    }

    #[test]
    fn after_a_cut_at_any_access_the_record_is_the_old_or_the_new_one_whole() {
        let old = FirmwareRecord::new(2, Slot::A, false);
        let new = FirmwareRecord::new(3, Slot::A, true);
        let mut cells = flash();
        cells[BLOCK..][..FirmwareRecord::BYTES].copy_from_slice(&old.to_bytes());
        // The records alone: a flash is long.
        cells.truncate(2 * BLOCK);
        let whole = Chip::new(cells.clone());
        FirmwareSlots::new(&whole, Slot::A).write_record(&new).unwrap();
        let accesses = whole.accesses();
        let mut seen = [false; 2];
        for cut in 1..=accesses {
            let chip = Chip::new(cells.clone());
            chip.cut_at(cut);
            let done = FirmwareSlots::new(&chip, Slot::A).write_record(&new).is_ok();
            let after = Chip::new(chip.power_on());
            let found = FirmwareSlots::new(&after, Slot::A).record().unwrap();
            assert!(found == Some(new) || (found == Some(old) && !done), "cut at access {cut}: {found:?}");
            seen[usize::from(found == Some(new))] = true;
        }
        assert_eq!(seen, [true, true]);
    }

    #[test]
    fn a_board_whose_firmware_names_no_slot_has_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(FirmwareSlots::open(root.path()).is_none());
        let path = root.path().join(BOOTED);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"c\0").unwrap();
        assert!(FirmwareSlots::open(root.path()).is_none());
        std::fs::write(&path, b"b\0").unwrap();
        assert!(FirmwareSlots::open(root.path()).is_none(), "there is no flash");
        let flash = root.path().join(FLASH);
        std::fs::create_dir_all(flash.parent().unwrap()).unwrap();
        std::fs::write(&flash, FirmwareRecord::new(4, Slot::B, false).to_bytes()).unwrap();
        assert_eq!(FirmwareSlots::open(root.path()).map(|slots| slots.booted()), Some(Slot::B));
    }
}
