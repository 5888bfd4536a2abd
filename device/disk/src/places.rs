//! Which disks are ours, and what the slots on them hold, in the kernel's own words and files. Never writes to a disk.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use protocol_types::{
    Digest, Slot,
    partitions::{self, Layout, Partition},
    verity::Superblock,
};

/// A bound for the number of block devices that are looked at.
const MOST_DEVICES: usize = 1024;

/// The unit in which the kernel gives places and lengths, whatever the disk's own.
const SECTOR: u64 = 512;

/// Where the kernel shows its devices.
#[derive(Clone, Debug)]
pub struct Places {
    /// One entry a block device, linked to where it hangs.
    pub class_block: PathBuf,
    /// The device nodes.
    pub dev: PathBuf,
}

/// A disk of ours with the root hash that each slot's tree has; none if the slot holds no readable tree.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The disk.
    pub layout: Layout,
    /// The root hash of the tree in slot a.
    pub a: Option<Digest>,
    /// The root hash of the tree in slot b.
    pub b: Option<Digest>,
}

impl Candidate {
    /// The root hash of the tree in a slot.
    pub const fn root_hash(&self, slot: Slot) -> Option<Digest> {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }
}

impl Places {
    /// In the system below `root`.
    pub fn below(root: &Path) -> Self {
        Self { class_block: root.join("sys/class/block"), dev: root.join("dev") }
    }

    /// The disks that are laid out as ours, and the root hashes of their slots.
    ///
    /// # Errors
    /// If the kernel's list of block devices cannot be read.
    pub fn candidates(&self) -> io::Result<Vec<Candidate>> {
        let layouts = partitions::layouts(&self.partitions()?);
        Ok(layouts.into_iter().map(|layout| self.candidate(layout)).collect())
    }

    /// How many bytes of the disk lie behind the state, which is its last partition.
    ///
    /// # Errors
    /// If the kernel does not say where the state lies.
    pub fn room_behind_state(&self, layout: &Layout) -> io::Result<u64> {
        let sectors = |device: &str, what: &str| -> io::Result<u64> {
            let text = fs::read_to_string(self.class_block.join(device).join(what))?;
            text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
        };
        let end = sectors(layout.state(), "start")?.saturating_add(sectors(layout.state(), "size")?);
        Ok(sectors(&layout.disk, "size")?.saturating_sub(end).saturating_mul(SECTOR))
    }

    /// The node of a device.
    pub fn node(&self, device: &str) -> PathBuf {
        self.dev.join(device)
    }

    fn partitions(&self) -> io::Result<Vec<Partition>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.class_block)?.take(MOST_DEVICES) {
            // A device may go while it is looked at; it is then not there.
            if let Some(partition) = entry.ok().and_then(|e| partition(&e.path())) {
                found.push(partition);
            }
        }
        Ok(found)
    }

    fn candidate(&self, layout: Layout) -> Candidate {
        let hash = |slot| root_hash(&self.node(layout.verity(slot)));
        let (a, b) = (hash(Slot::A), hash(Slot::B));
        Candidate { layout, a, b }
    }
}

/// A labelled partition; `None` for anything else.
fn partition(entry: &Path) -> Option<Partition> {
    let path = entry.canonicalize().ok()?;
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    if !path.join("partition").exists() {
        return None;
    }
    let mut uevent = Vec::new();
    let limit = u64::try_from(partitions::MAX_UEVENT).unwrap_or(u64::MAX);
    File::open(path.join("uevent")).ok()?.take(limit).read_to_end(&mut uevent).ok()?;
    Some(Partition { disk: name(path.parent()?)?, device: name(&path)?, label: partitions::label(&uevent)? })
}

/// The root hash of the tree on a partition; `None` if there is no tree of ours, or it cannot be read.
fn root_hash(verity: &Path) -> Option<Digest> {
    let file = File::open(verity).ok()?;
    let mut superblock = [0; Superblock::BYTES];
    file.read_exact_at(&mut superblock, 0).ok()?;
    let superblock = Superblock::parse(&superblock).ok()?;
    let mut top = [0; Superblock::BLOCK];
    file.read_exact_at(&mut top, Superblock::TOP_AT).ok()?;
    Some(superblock.root_hash(&top))
}
