//! The GPT disk image of the board `host`: makes it, and finds the slots in it. Never reads or writes what is inside a slot.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use gpt::{GptConfig, disk::LogicalBlockSize, mbr::ProtectiveMBR, partition_types};
use protocol_types::Slot;

const SECTOR: u64 = 512;
/// Partitions begin at multiples of 1 MiB, as partitioning tools lay them out for flash memory.
const ALIGNMENT: u64 = 1024 * 1024;
/// The table's own copy at each end fits into this with room to spare.
const MARGIN: u64 = 2 * 1024 * 1024;

/// A disk image that cannot be made or does not hold what a device needs.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The partition table cannot be written or read.
    #[error("cannot {doing} the partition table of {}", path.display())]
    Table {
        /// What was tried.
        doing: &'static str,
        /// The image.
        path: PathBuf,
        /// Why not.
        source: gpt::GptError,
    },
    /// A partition is missing, stands twice or lies outside of the image.
    #[error("{} has no usable partition `{label}`", path.display())]
    Partition {
        /// The image.
        path: PathBuf,
        /// The partition's label.
        label: String,
    },
    /// The two slots must be able to hold the same images.
    #[error("slots of {a} and {b} bytes differ in size")]
    Unequal {
        /// Bytes in slot A.
        a: u64,
        /// Bytes in slot B.
        b: u64,
    },
    /// A slot size that is no whole number of blocks.
    #[error("{0} bytes are no slot size: it must be a multiple of 4096 and at least 4096")]
    SlotSize(u64),
}

/// Where a slot lies in the image, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// The label of a slot's root partition.
fn label(slot: Slot) -> String {
    format!("root-{slot}")
}

/// Makes a sparse disk image at `path`, which must not exist, with the partitions `root-a` and `root-b` of `slot_bytes` each.
///
/// # Errors
/// If the size is unusable, the file exists, or it cannot be written to the end.
pub fn create_image(path: &Path, slot_bytes: u64) -> Result<(), ImageError> {
    if slot_bytes == 0 || !slot_bytes.is_multiple_of(4096) {
        return Err(ImageError::SlotSize(slot_bytes));
    }
    let io = |doing| move |source| ImageError::Io { doing, path: path.to_owned(), source };
    let table = |source| ImageError::Table { doing: "write", path: path.to_owned(), source };
    let total = slot_bytes
        .next_multiple_of(ALIGNMENT)
        .checked_mul(2)
        .and_then(|slots| slots.checked_add(2 * MARGIN))
        .ok_or(ImageError::SlotSize(slot_bytes))?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(io("create"))?;
    file.set_len(total).map_err(io("extend"))?;
    let sectors = u32::try_from(total / SECTOR - 1).unwrap_or(u32::MAX);
    let mut mbr = [0; 512];
    mbr.copy_from_slice(&ProtectiveMBR::with_lb_size(sectors).to_bytes());
    file.write_all_at(&mbr, 0).map_err(io("write"))?;
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, None)
        .map_err(table)?;
    for slot in [Slot::A, Slot::B] {
        disk.add_partition(&label(slot), slot_bytes, partition_types::LINUX_FS, 0, Some(ALIGNMENT / SECTOR))
            .map_err(table)?;
    }
    let file = disk.write().map_err(table)?;
    file.sync_all().map_err(io("sync"))
}

/// Finds both slots in the image.
pub(super) fn find_slots(path: &Path, file: &File) -> Result<[Extent; 2], ImageError> {
    let io = |source| ImageError::Io { doing: "read", path: path.to_owned(), source };
    let length = file.metadata().map_err(io)?.len();
    let reader = file.try_clone().map_err(io)?;
    let disk = GptConfig::new()
        .writable(false)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open_from_device(reader)
        .map_err(|source| ImageError::Table { doing: "read", path: path.to_owned(), source })?;
    let find = |slot| {
        let mut found = disk.partitions().values().filter(|partition| partition.name == label(slot));
        let extent = found.next().and_then(|partition| {
            let start = partition.first_lba.checked_mul(SECTOR)?;
            let end = partition.last_lba.checked_add(1)?.checked_mul(SECTOR)?;
            let bytes = end.checked_sub(start)?;
            (end <= length && bytes > 0).then_some(Extent { start, bytes })
        });
        match (extent, found.next()) {
            (Some(extent), None) => Ok(extent),
            _ => Err(ImageError::Partition { path: path.to_owned(), label: label(slot) }),
        }
    };
    let (a, b) = (find(Slot::A)?, find(Slot::B)?);
    if a.bytes != b.bytes {
        return Err(ImageError::Unequal { a: a.bytes, b: b.bytes });
    }
    Ok([a, b])
}
