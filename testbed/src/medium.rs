//! The disk of a machine that is off, as somebody sees it who takes it out: boot entries, and whether what they boot is whole.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use image_builder::{board::Board, image::load_board};
use protocol_types::{Slot, boot::BootEntry};

use crate::images::tree;

/// Partitions begin at this many bytes, one behind the other (`docs/formats/image.md`).
const FIRST: u64 = 1 << 20;
const ENTRIES: &str = "::/EFI/Linux";

/// A disk that nobody writes to now.
#[derive(Debug)]
pub struct Medium {
    disk: PathBuf,
    board: Board,
}

impl Medium {
    /// The disk in this file, of the board `qemu-arm64-tpm`.
    ///
    /// # Errors
    /// If the board's description cannot be read.
    pub fn new(disk: &Path) -> anyhow::Result<Self> {
        Self::of("qemu-arm64-tpm", disk)
    }

    /// The disk in this file, of another board.
    ///
    /// # Errors
    /// If the board's description cannot be read.
    pub fn of(board: &str, disk: &Path) -> anyhow::Result<Self> {
        let board = load_board(&tree().join("image"), board).context("cannot read the board's description")?;
        Ok(Self { disk: disk.to_owned(), board })
    }

    /// Its boot entries; what else lies beside them is passed over.
    ///
    /// # Errors
    /// If the boot partition cannot be read.
    pub fn entries(&self) -> anyhow::Result<Vec<BootEntry>> {
        let listed = self.esp("mdir", &["-b"], &[ENTRIES])?;
        Ok(listed.lines().filter_map(|path| BootEntry::parse(path.rsplit('/').next()?)).collect())
    }

    /// The signed kernel image of a boot entry.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn image(&self, entry: BootEntry) -> anyhow::Result<Vec<u8>> {
        let copy = self.beside("entry.efi");
        self.esp("mcopy", &["-n", "-o"], &[&format!("{ENTRIES}/{entry}"), &copy.display().to_string()])?;
        fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()))
    }

    /// Renames a boot entry, so that the loader sees it no more or again.
    ///
    /// # Errors
    /// If it is not there.
    pub fn rename(&self, from: &str, to: &str) -> anyhow::Result<()> {
        self.esp("mren", &[], &[&format!("{ENTRIES}/{from}"), &format!("{ENTRIES}/{to}")]).map(drop)
    }

    /// Holds every block of a slot against the root hash that a kernel image names.
    ///
    /// # Errors
    /// If a block is another one.
    pub fn check_slot(&self, slot: Slot, image: &[u8]) -> anyhow::Result<()> {
        const WORD: &[u8] = b"roothash=";
        let at = image.windows(WORD.len()).position(|window| window == WORD).context("the image names no root hash")?;
        let hash = image.get(at + WORD.len()..at + WORD.len() + 64).context("the image is cut off")?;
        let hash = std::str::from_utf8(hash).context("the root hash is no text")?;
        let [root, tree] = ["root", "verity"].map(|kind| self.take(&format!("{kind}-{slot}")));
        let mut veritysetup = Command::new("veritysetup");
        let output =
            veritysetup.arg("verify").arg(root?).arg(tree?).arg(hash).output().context("cannot run veritysetup")?;
        ensure!(output.status.success(), "slot {slot} is not whole: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Writes over a part of a partition, which begins `at` bytes behind the partition's beginning.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn overwrite(&self, label: &str, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let (start, _) = self.extent(label)?;
        let mut disk = File::options().write(true).open(&self.disk).context("cannot open the disk")?;
        disk.seek(SeekFrom::Start(start + at)).context("cannot find the partition")?;
        io::Write::write_all(&mut disk, bytes).context("cannot write the disk")
    }

    /// A copy of a partition, beside the disk.
    ///
    /// # Errors
    /// If the disk cannot be read or the copy not be written.
    pub fn take(&self, label: &str) -> anyhow::Result<PathBuf> {
        let (start, bytes) = self.extent(label)?;
        let copy = self.beside(label);
        let mut disk = File::open(&self.disk).context("cannot open the disk")?;
        disk.seek(SeekFrom::Start(start)).context("cannot find the partition")?;
        let file = File::create(&copy).with_context(|| format!("cannot make {}", copy.display()));
        io::copy(&mut disk.take(bytes), &mut file?).with_context(|| format!("cannot copy the partition {label}"))?;
        Ok(copy)
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.disk.with_file_name(name)
    }

    /// Where a partition begins and how long it is, in bytes.
    fn extent(&self, label: &str) -> anyhow::Result<(u64, u64)> {
        let mut start = FIRST;
        for partition in &self.board.partitions {
            let bytes = partition.mib << 20;
            if partition.label == label {
                return Ok((start, bytes));
            }
            start += bytes;
        }
        anyhow::bail!("the board has no partition `{label}`")
    }

    /// Runs a program of mtools on the boot partition.
    fn esp(&self, program: &str, options: &[&str], paths: &[&str]) -> anyhow::Result<String> {
        let (start, _) = self.extent("esp")?;
        let at = format!("{}@@{start}", self.disk.display());
        let output = Command::new(program).args(options).args(["-i", &at]).args(paths).output();
        let output = output.with_context(|| format!("cannot run {program}"))?;
        ensure!(output.status.success(), "{program} {paths:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
