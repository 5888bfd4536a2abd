//! A NOR flash as user space reaches it: a file with the bytes of two 16-bit chips side by side, in which writes are commands (Common
//! Flash Interface, Intel's command set). Never decides what is erased or programmed.
//!
//! The file is the kernel's view of memory, which copies eight aligned bytes in one access. The bus makes two accesses of 32 bits of it,
//! the lower address first, so each write here is a pair of them.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// What is erased at once.
pub(super) const ERASE_BYTES: u64 = 256 * 1024;
/// What is programmed at once: half of the chips' buffers.
const PROGRAM_BYTES: u64 = 2048;
/// The smallest unit that is programmed.
pub(super) const UNIT: u64 = 8;

/// Commands, for both chips.
const READ_ARRAY: u32 = both(0xff);
const WRITE_TO_BUFFER: u32 = both(0xe8);
const CONFIRM: u32 = both(0xd0);
const BLOCK_ERASE: u32 = both(0x20);
const CLEAR_STATUS: u32 = both(0x50);
/// Bits of the status: ready; what went wrong.
const READY: u32 = both(0x80);
const FAILED: u32 = both(0x3a);
/// How often the status is asked for: an erase takes a second or two on a slow chip.
const STATUS_READS: u32 = 3_000_000;

const fn both(command: u32) -> u32 {
    command | command << 16
}

/// The bytes of the chips.
pub(super) trait Bus {
    /// Fills `into` from byte `at` on.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes from byte `at` on; both `at` and the length are multiples of [`UNIT`].
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Bus for File {
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }
}

/// The chips.
#[derive(Debug)]
pub(super) struct Nor<B> {
    bus: B,
}

impl<B: Bus> Nor<B> {
    pub(super) const fn new(bus: B) -> Self {
        Self { bus }
    }

    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.bus.read(at, into)
    }

    /// Erases the block that begins at `at`.
    pub(super) fn erase(&self, at: u64) -> io::Result<()> {
        self.pair(at, BLOCK_ERASE, CONFIRM)?;
        self.finish(at, "erase")
    }

    /// Programs erased bytes from `at` on, a multiple of [`UNIT`]; the last unit is filled up with ones.
    pub(super) fn program(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            // A buffer's bytes lie in one aligned piece of its length.
            let room = PROGRAM_BYTES - at % PROGRAM_BYTES;
            let length = usize::try_from(room).unwrap_or(rest.len()).min(rest.len());
            let (piece, after) = rest.split_at(length);
            let mut piece = piece.to_vec();
            piece.resize(piece.len().next_multiple_of(8), 0xff);
            self.program_piece(at, &piece)?;
            (at, rest) = (at + room, after);
        }
        Ok(())
    }

    /// Programs one buffer: its words may come in any order, so the first comes last, in one pair with the command that ends it.
    fn program_piece(&self, at: u64, piece: &[u8]) -> io::Result<()> {
        let Some((head, tail)) = piece.split_first_chunk::<8>() else { return Ok(()) };
        let [a, b, c, d, e, f, g, h] = *head;
        let count = u32::try_from(piece.len() / 4 - 1).unwrap_or(0);
        self.pair(at, READ_ARRAY, WRITE_TO_BUFFER)?;
        self.pair(at, both(count), u32::from_le_bytes([e, f, g, h]))?;
        if !tail.is_empty() {
            self.bus.write(at + UNIT, tail)?;
        }
        self.pair(at, u32::from_le_bytes([a, b, c, d]), CONFIRM)?;
        self.finish(at, "program")
    }

    fn pair(&self, at: u64, first: u32, second: u32) -> io::Result<()> {
        let pair = [first.to_le_bytes(), second.to_le_bytes()];
        self.bus.write(at, pair.as_flattened())
    }

    /// Waits until the chips are ready, and lets them show their bytes again.
    fn finish(&self, at: u64, doing: &str) -> io::Result<()> {
        let mut status = 0;
        for _ in 0..STATUS_READS {
            let mut bytes = [0; 8];
            self.bus.read(at, &mut bytes)?;
            let [a, b, c, d, ..] = bytes;
            status = u32::from_le_bytes([a, b, c, d]);
            if status & READY == READY {
                break;
            }
        }
        self.pair(at, CLEAR_STATUS, READ_ARRAY)?;
        if status & READY == READY && status & FAILED == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!("the flash did not {doing} at {at:#x}: status {status:08x}")))
    }
}

#[cfg(test)]
pub(crate) mod chip {
    //! Two chips side by side, as the data sheet of the command set describes them, that may lose power at any access.

    use std::cell::RefCell;

    use super::*;

    /// As [`ERASE_BYTES`].
    pub(crate) const BLOCK: usize = 256 * 1024;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Mode {
        Array,
        Status,
        EraseSetup,
        Count,
        Data { left: u32 },
        Confirm,
    }

    #[derive(Debug)]
    struct Inner {
        cells: Vec<u8>,
        mode: Mode,
        buffer: Vec<(usize, [u8; 4])>,
        accesses: u64,
        cut_at: Option<u64>,
    }

    /// The chips; power that was cut stays so until [`Chip::power_on`].
    #[derive(Debug)]
    pub(crate) struct Chip {
        inner: RefCell<Inner>,
    }

    impl Chip {
        /// Chips with these bytes.
        pub(crate) fn new(cells: Vec<u8>) -> Self {
            let inner = Inner { cells, mode: Mode::Array, buffer: Vec::new(), accesses: 0, cut_at: None };
            Self { inner: RefCell::new(inner) }
        }

        pub(crate) fn accesses(&self) -> u64 {
            self.inner.borrow().accesses
        }

        pub(crate) fn cut_at(&self, access: u64) {
            self.inner.borrow_mut().cut_at = Some(access);
        }

        /// The bytes, as they stand after the power came back.
        pub(crate) fn power_on(&self) -> Vec<u8> {
            self.inner.borrow().cells.clone()
        }
    }

    impl Inner {
        fn write_word(&mut self, at: usize, word: [u8; 4]) -> io::Result<()> {
            self.accesses += 1;
            let is_cut = self.cut_at.is_some_and(|cut| self.accesses >= cut);
            if self.cut_at.is_some_and(|cut| self.accesses > cut) {
                return Err(io::Error::other("no power"));
            }
            let command = u32::from_le_bytes(word);
            self.mode = match (self.mode, command) {
                (Mode::Count, count) => {
                    assert_eq!(count & 0xffff, count >> 16, "each chip counts");
                    Mode::Data { left: (count & 0xffff) + 1 }
                }
                (Mode::Data { left }, _) => {
                    self.buffer.push((at, word));
                    if left == 1 { Mode::Confirm } else { Mode::Data { left: left - 1 } }
                }
                (Mode::Confirm, CONFIRM) => {
                    let buffer = std::mem::take(&mut self.buffer);
                    let block = buffer[0].0 / 2048;
                    // What power leaves of a program under way is half of its words.
                    let done = if is_cut { buffer.len() / 2 } else { buffer.len() };
                    for (at, word) in &buffer[..done] {
                        assert_eq!(at / 2048, block, "a buffer lies in one piece");
                        for (cell, byte) in self.cells[*at..at + 4].iter_mut().zip(word) {
                            *cell &= byte;
                        }
                    }
                    Mode::Status
                }
                (Mode::EraseSetup, CONFIRM) => {
                    let start = at / BLOCK * BLOCK;
                    let end = start + if is_cut { BLOCK / 2 } else { BLOCK };
                    self.cells[start..end].fill(0xff);
                    Mode::Status
                }
                (Mode::Array | Mode::Status, READ_ARRAY) => Mode::Array,
                (Mode::Array | Mode::Status, WRITE_TO_BUFFER) => Mode::Count,
                (Mode::Array | Mode::Status, BLOCK_ERASE) => Mode::EraseSetup,
                (mode @ (Mode::Array | Mode::Status), CLEAR_STATUS) => mode,
                (mode, other) => panic!("no command in {mode:?}: {other:08x}"),
            };
            if is_cut { Err(io::Error::other("power fails")) } else { Ok(()) }
        }
    }

    impl Bus for &Chip {
        fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
            let inner = self.inner.borrow();
            let at = usize::try_from(at).unwrap();
            match inner.mode {
                Mode::Array => into.copy_from_slice(&inner.cells[at..at + into.len()]),
                _ => into.fill(0x80),
            }
            Ok(())
        }

        fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
            assert_eq!((at % UNIT, bytes.len() as u64 % UNIT), (0, 0), "the kernel would write single bytes");
            let at = usize::try_from(at).unwrap();
            let mut inner = self.inner.borrow_mut();
            let mut words = bytes.as_chunks::<4>().0.iter().enumerate();
            words.try_for_each(|(index, word)| inner.write_word(at + index * 4, *word))
        }
    }

    #[test]
    fn what_is_programmed_after_an_erase_is_read_and_its_neighbours_stay() {
        let chip = Chip::new(vec![0x5a; 2 * BLOCK]);
        let nor = Nor::new(&chip);
        nor.erase(ERASE_BYTES).unwrap();
        let bytes: Vec<u8> = (0..5003_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        nor.program(ERASE_BYTES + 1000, &bytes).unwrap();
        let cells = chip.power_on();
        let at = BLOCK + 1000;
        assert!(cells[..BLOCK].iter().all(|byte| *byte == 0x5a));
        assert!(cells[BLOCK..at].iter().all(|byte| *byte == 0xff));
        assert_eq!(&cells[at..at + bytes.len()], bytes);
        assert!(cells[at + bytes.len()..].iter().all(|byte| *byte == 0xff));
        let mut read = vec![0; bytes.len()];
        nor.read(ERASE_BYTES + 1000, &mut read).unwrap();
        assert_eq!(read, bytes, "the chips show their bytes again");
    }
}
