//! The disk image: a GPT with the board's partitions, and in them the first slot and the ESP. Sparse, and the same bytes each time.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use gpt::{
    GptConfig,
    disk::LogicalBlockSize,
    mbr::ProtectiveMBR,
    partition::Partition,
    partition_types::{OperatingSystem, Type},
};

use crate::board::{Board, PartitionKind};
use crate::identity;

const SECTOR: u64 = 512;
/// Partitions begin at multiples of 1 MiB, as partitioning tools lay them out for flash memory; the table itself fits before the
/// first and after the last.
const ALIGNMENT: u64 = 1 << 20;

/// A disk image that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The partition table.
    #[error("cannot {doing} the partition table of {}", path.display())]
    Table {
        /// What was tried.
        doing: &'static str,
        /// The disk image.
        path: PathBuf,
        /// Why not.
        source: gpt::GptError,
    },
    /// Something does not fit.
    #[error("{bytes} bytes do not fit into the partition `{label}`")]
    Full {
        /// The partition.
        label: String,
        /// What should have gone there.
        bytes: u64,
    },
    /// The table is not the board's.
    #[error("the disk does not have the partitions of the board: {0}")]
    Layout(String),
}

/// Where a partition lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// Where each partition of the board lies, by label, and how long the disk is.
pub(super) fn layout(board: &Board) -> (BTreeMap<&str, Extent>, u64) {
    let mut at = ALIGNMENT;
    let mut extents = BTreeMap::new();
    for partition in &board.partitions {
        let extent = Extent { start: at, bytes: partition.mib << 20 };
        extents.insert(partition.label.as_str(), extent);
        at += extent.bytes;
    }
    (extents, at + ALIGNMENT)
}

/// The type of a partition (UAPI.2 Discoverable Partitions Specification; `root` and `verity` are those of arm64).
fn type_of(kind: PartitionKind) -> Type {
    let guid = match kind {
        PartitionKind::Esp => uuid::uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
        PartitionKind::Root => uuid::uuid!("b921b045-1df0-41c3-af44-4c6f280d3fae"),
        PartitionKind::Verity => uuid::uuid!("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
        PartitionKind::Factory | PartitionKind::Tee => uuid::uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"),
        PartitionKind::State => uuid::uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
    };
    Type { guid, os: OperatingSystem::None }
}

/// Makes the disk image `path` and copies each file of `contents` into the partition of its label.
pub(super) fn make(board: &Board, contents: &[(&str, &Path)], path: &Path) -> Result<(), DiskError> {
    let io = |doing| move |source| DiskError::File { doing, path: path.to_owned(), source };
    let table = |source| DiskError::Table { doing: "write", path: path.to_owned(), source };
    let (extents, total) = layout(board);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("replace")(error)),
        _ => {}
    }
    let disk = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(io("create"))?;
    disk.set_len(total).map_err(io("extend"))?;
    for (label, from) in contents {
        let full = |bytes| DiskError::Full { label: (*label).to_owned(), bytes };
        let extent = extents.get(label).ok_or_else(|| full(0))?;
        let bytes =
            fs::metadata(from).map_err(|source| DiskError::File { doing: "read", path: from.to_path_buf(), source })?;
        if bytes.len() > extent.bytes {
            return Err(full(bytes.len()));
        }
        copy_sparse(from, &disk, extent.start)?;
    }
    let sectors = u32::try_from(total / SECTOR - 1).unwrap_or(u32::MAX);
    let mbr = ProtectiveMBR::with_lb_size(sectors).to_bytes();
    disk.write_all_at(&mbr, 0).map_err(io("write"))?;
    let name = board.name.as_str();
    let mut gpt = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(disk, Some(identity::of_name(name, "disk")))
        .map_err(table)?;
    let partition = |(number, wanted): (u32, &crate::board::Partition)| {
        let extent = extents.get(wanted.label.as_str())?;
        let partition = Partition {
            part_type_guid: type_of(wanted.kind),
            part_guid: identity::of_name(name, &wanted.label),
            first_lba: extent.start / SECTOR,
            last_lba: (extent.start + extent.bytes) / SECTOR - 1,
            flags: 0,
            name: wanted.label.clone(),
        };
        Some((number, partition))
    };
    let partitions = (1_u32..).zip(&board.partitions).filter_map(partition).collect();
    gpt.update_partitions(partitions).map_err(table)?;
    gpt.write().map_err(table)?.sync_all().map_err(io("sync"))
}

/// Copies what is not zero.
fn copy_sparse(from: &Path, to: &File, start: u64) -> Result<(), DiskError> {
    let failed = |source| DiskError::File { doing: "copy", path: from.to_owned(), source };
    let mut source = File::open(from).map_err(failed)?;
    let (mut at, mut buffer) = (start, vec![0; 1 << 16]);
    loop {
        let read = source.read(&mut buffer).map_err(failed)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { return Ok(()) };
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(piece, at).map_err(failed)?;
        }
        at += read as u64;
    }
}

/// Makes sure that the disk image `path` has exactly the board's partitions, where the board file puts them.
pub(super) fn check(board: &Board, path: &Path) -> Result<(), DiskError> {
    let table = |source| DiskError::Table { doing: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(|source| DiskError::File { doing: "read", path: path.to_owned(), source })?;
    let disk = GptConfig::new()
        .writable(false)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open_from_device(file)
        .map_err(table)?;
    let (extents, _) = layout(board);
    let mut missing: BTreeMap<&str, Extent> = extents;
    for found in disk.partitions().values() {
        let extent = Extent { start: found.first_lba * SECTOR, bytes: (found.last_lba + 1 - found.first_lba) * SECTOR };
        match missing.remove(found.name.as_str()) {
            Some(expected) if expected == extent => {}
            Some(_) => return Err(DiskError::Layout(format!("`{}` lies elsewhere", found.name))),
            None => return Err(DiskError::Layout(format!("`{}` is not the board's", found.name))),
        }
    }
    match missing.keys().next() {
        Some(label) => Err(DiskError::Layout(format!("`{label}` is missing"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::TEXT;

    fn board() -> Board {
        Board::parse(TEXT, Path::new("board.toml")).unwrap()
    }

    #[test]
    fn two_disks_of_the_same_parts_are_the_same_bytes_and_the_boards() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::write(&root, [7; 5000]).unwrap();
        let digest = |name: &str| {
            let path = dir.path().join(name);
            make(&board(), &[("root-a", &root)], &path).unwrap();
            check(&board(), &path).unwrap();
            let board = board();
            let (extents, total) = layout(&board);
            let disk = File::open(&path).unwrap();
            assert_eq!(disk.metadata().unwrap().len(), total);
            let mut copied = [0; 5001];
            disk.read_exact_at(&mut copied, extents["root-a"].start).unwrap();
            assert!(copied.iter().take(5000).all(|byte| *byte == 7) && copied[5000] == 0);
            crate::packages::digest_of(&path).unwrap()
        };
        assert_eq!(digest("one"), digest("two"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len((4 << 20) + 1).unwrap();
        let error = make(&board(), &[("verity-b", &large)], &dir.path().join("disk")).unwrap_err();
        assert!(matches!(error, DiskError::Full { label, .. } if label == "verity-b"));
    }

    #[test]
    fn a_disk_of_another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        make(&board(), &[], &path).unwrap();
        let other = TEXT.replacen("mib = 16", "mib = 32", 1);
        let other = Board::parse(&other, Path::new("board.toml")).unwrap();
        assert!(matches!(check(&other, &path), Err(DiskError::Layout(_))));
    }
}
