//! What a board does that is turned on with a disk in some state: which entry the loader chooses, whether its kernel image is whole,
//! which slot the initrd opens for it, and whether every block there has the digest that the signed root hash stands for. Written
//! from the formats' documentation; shares nothing with what the updater reads and writes with.

use std::collections::HashMap;

use protocol_types::{Digest, Hasher, SecurityVersion, Slot};

use super::{
    fat::{Damage, Volume},
    history::EspOf,
    loader::{self, Entry},
    sectors::{Content, Disk, Library, Part},
    systems::System,
};

/// Sectors of a block, and digests in one.
const BLOCK_SECTORS: usize = 8;
const DIGESTS: usize = 128;

/// What is started by one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A whole system, by its number, from this slot.
    Starts(usize, Slot),
    /// Nothing.
    Nothing(String),
    /// A kernel image without the root that it was signed for.
    Mixed(String),
}

/// What a board does that is turned on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The entry that the loader chooses, by its name before it counts the try.
    pub(super) entry: String,
    /// What that starts.
    pub(super) first: Outcome,
    /// What is started once every entry with a counter is used up.
    pub(super) last: Outcome,
}

/// The rules, and what is known of contents that were looked at before.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    systems: &'a [System],
    library: &'a Library,
    ukis: Vec<Vec<Content>>,
    digests: HashMap<(Content, [Content; BLOCK_SECTORS]), Digest>,
    /// Slots that were found whole: tree and data.
    whole: Vec<(Vec<Content>, Vec<Content>)>,
}

impl<'a> Checker<'a> {
    /// `ukis` are the contents of the systems' kernel images.
    pub(super) fn new(systems: &'a [System], library: &'a Library, ukis: Vec<Vec<Content>>) -> Self {
        Self { systems, library, ukis, digests: HashMap::new(), whole: Vec::new() }
    }

    /// What a board with this disk and floor does.
    pub(super) fn check(&mut self, disk: &Disk, floor: SecurityVersion) -> Verdict {
        let damaged = |Damage(why)| {
            let nothing = Outcome::Nothing(format!("the boot partition is damaged: {why}"));
            Verdict { entry: String::new(), first: nothing.clone(), last: nothing }
        };
        let entries = match loader::folder(&EspOf(disk, self.library)) {
            Ok(folder) => loader::entries(&folder),
            Err(damage) => return damaged(damage),
        };
        let none = || Outcome::Nothing("no entry is left".to_owned());
        let chosen = entries.iter().find(|entry| !entry.is_exhausted());
        let kept = entries.iter().find(|entry| entry.tries.is_none());
        let first = chosen.map_or_else(none, |entry| self.start(disk, entry, floor));
        let last = match kept {
            kept if kept == chosen => first.clone(),
            kept => kept.map_or_else(none, |entry| self.start(disk, entry, floor)),
        };
        Verdict { entry: chosen.map(|entry| entry.name.text.clone()).unwrap_or_default(), first, last }
    }

    fn start(&mut self, disk: &Disk, entry: &Entry, floor: SecurityVersion) -> Outcome {
        let name = &entry.name.text;
        let Some(number) = self.system_of(disk, entry) else {
            return Outcome::Nothing(format!("{name} is no whole kernel image"));
        };
        let system = &self.systems[number];
        if system.security_version < floor {
            return Outcome::Nothing(format!("{name} is below the floor"));
        }
        let wanted = system.root_hash;
        let slots = [Slot::A, Slot::B].into_iter().filter(|slot| self.root_hash(disk, *slot) == Some(wanted));
        let slots: Vec<Slot> = slots.collect();
        let by_name = if name.to_ascii_lowercase().contains("-b") { Slot::B } else { Slot::A };
        let slot = match *slots.as_slice() {
            [] => return Outcome::Mixed(format!("no slot has the root hash that {name} is signed for")),
            [slot] => slot,
            _ => by_name,
        };
        if self.is_whole(disk, slot) {
            Outcome::Starts(number, slot)
        } else {
            Outcome::Mixed(format!("{name} is signed for slot {slot}, in which a block has another digest"))
        }
    }

    /// The system whose kernel image an entry is, from its first byte to its last.
    fn system_of(&self, disk: &Disk, entry: &Entry) -> Option<usize> {
        let esp = EspOf(disk, self.library);
        let chain = Volume::open(&esp).and_then(|volume| volume.chain(entry.name.cluster)).ok()?;
        let contents = disk.part(Part::Esp);
        (0..self.systems.len()).find(|number| {
            let (uki, bytes) = (&self.ukis[*number], self.systems[*number].uki.len());
            let found = chain.iter().filter_map(|sector| contents.get(*sector));
            entry.name.bytes == bytes && chain.len() >= uki.len() && found.take(uki.len()).eq(uki)
        })
    }

    /// The root hash of the tree in a slot, by the on-disk format of dm-verity (kernel, `admin-guide/device-mapper/verity`).
    fn root_hash(&mut self, disk: &Disk, slot: Slot) -> Option<Digest> {
        Tree::read(disk, self.library, slot)?;
        Some(self.digest(disk, slot, Part::Verity(slot), 1))
    }

    /// The digest of a block with the salt of a slot's tree.
    fn digest(&mut self, disk: &Disk, slot: Slot, part: Part, block: usize) -> Digest {
        let superblock = disk.part(Part::Verity(slot))[0];
        let mut contents = [0; BLOCK_SECTORS];
        contents.copy_from_slice(&disk.part(part)[block * BLOCK_SECTORS..(block + 1) * BLOCK_SECTORS]);
        *self.digests.entry((superblock, contents)).or_insert_with(|| {
            let head = self.library.sector(superblock);
            let salt = usize::from(u16::from_le_bytes([head[80], head[81]])).min(256);
            let mut hasher = Hasher::new();
            hasher.update(&head[88..88 + salt]);
            for content in contents {
                hasher.update(self.library.sector(content));
            }
            hasher.finish()
        })
    }

    /// Whether every block of a slot has the digest that its tree names, up to the top.
    fn is_whole(&mut self, disk: &Disk, slot: Slot) -> bool {
        let Some(tree) = Tree::read(disk, self.library, slot) else { return false };
        let (root, verity) = (Part::Root(slot), Part::Verity(slot));
        if disk.part(root).len() < tree.data_blocks * BLOCK_SECTORS {
            return false;
        }
        let parts = |part, blocks: usize| &disk.part(part)[..blocks * BLOCK_SECTORS];
        let (hashes, data) = (parts(verity, tree.blocks()), parts(root, tree.data_blocks));
        if self.whole.iter().any(|(known_hashes, known_data)| known_hashes == hashes && known_data == data) {
            return true;
        }
        // From the top down: the blocks of a level, where the level above begins, and the partition.
        let mut above = 1;
        let levels = tree.levels.iter().skip(1).map(|blocks| (*blocks, verity)).chain([(tree.data_blocks, root)]);
        let mut at = 2;
        for (blocks, part) in levels {
            let first = if part == root { 0 } else { at };
            for block in 0..blocks {
                let named = self.named(disk, slot, above + block / DIGESTS, block % DIGESTS);
                if self.digest(disk, slot, part, first + block) != named {
                    return false;
                }
            }
            (above, at) = (at, at + blocks);
        }
        self.whole.push((hashes.to_vec(), data.to_vec()));
        true
    }

    /// Digest `number` in a block of a slot's tree.
    fn named(&self, disk: &Disk, slot: Slot, block: usize, number: usize) -> Digest {
        let sector = disk.part(Part::Verity(slot))[block * BLOCK_SECTORS + number / 16];
        Digest::from_bytes(self.library.sector(sector).as_chunks::<32>().0[number % 16])
    }
}

/// The shape of a slot's tree.
struct Tree {
    data_blocks: usize,
    /// Blocks of each level, the top first.
    levels: Vec<usize>,
}

impl Tree {
    fn read(disk: &Disk, library: &Library, slot: Slot) -> Option<Self> {
        let verity = disk.part(Part::Verity(slot));
        let head = library.sector(*verity.first()?);
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let formats = [word(8), word(12), word(64), word(68)] == [1, 1, 4096, 4096];
        if !head.starts_with(b"verity\0\0") || !formats || !head[32..].starts_with(b"sha256\0") {
            return None;
        }
        let data_blocks = usize::try_from(word(72)).ok().filter(|blocks| *blocks > 1)?;
        let mut levels = vec![data_blocks.div_ceil(DIGESTS)];
        while levels[0] > 1 {
            levels.insert(0, levels[0].div_ceil(DIGESTS));
        }
        let tree = Self { data_blocks, levels };
        (verity.len() >= tree.blocks() * BLOCK_SECTORS).then_some(tree)
    }

    /// Blocks of the tree with the one of its super block.
    fn blocks(&self) -> usize {
        1 + self.levels.iter().sum::<usize>()
    }
}
