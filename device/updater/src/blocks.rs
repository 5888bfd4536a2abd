//! Block lists: the digest of each 4 KiB block of a section. Never trusts a block that it has not hashed.

use protocol_release::document::{BLOCK_BYTES, Blocks};
use protocol_types::{Digest, Hasher};

use crate::{
    disk::{Disk, Place},
    storage::{Storage, StorageError},
};

/// Bytes in a block.
pub const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);

/// The digests of a section's blocks, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockList {
    digests: Vec<u8>,
    bytes: u64,
}

impl BlockList {
    /// Takes a list whose own digest was checked, for a section of `bytes` bytes; `None` if the lengths do not fit.
    pub fn new(digests: Vec<u8>, bytes: u64) -> Option<Self> {
        (u64::try_from(digests.len()) == Ok(Blocks::size_for(bytes))).then_some(Self { digests, bytes })
    }

    /// Blocks in the section.
    pub const fn count(&self) -> u64 {
        self.bytes.div_ceil(BLOCK_BYTES)
    }

    /// Where block `index` begins, in bytes.
    pub const fn start(index: u64) -> u64 {
        index * BLOCK_BYTES
    }

    /// Bytes of block `index`: fewer than [`BLOCK`] only for the last one.
    pub fn length(&self, index: u64) -> usize {
        let rest = self.bytes.saturating_sub(Self::start(index));
        usize::try_from(rest).map_or(BLOCK, |rest| rest.min(BLOCK))
    }

    /// Bytes from block `from` up to block `to`, which may be the end.
    pub fn span(&self, from: u64, to: u64) -> u64 {
        Self::start(to).min(self.bytes).saturating_sub(Self::start(from))
    }

    /// Whether `block` is, byte for byte, block `index` of the section.
    pub fn holds(&self, index: u64, block: &[u8]) -> bool {
        let Some(at) = usize::try_from(index).ok().and_then(|index| index.checked_mul(32)) else { return false };
        let Some(expected) = self.digests.get(at..).and_then(|rest| rest.get(..32)) else { return false };
        block.len() == self.length(index) && digest_of_block(block).as_bytes() == expected
    }
}

/// The digest of a block, padded with zeros to its full length.
fn digest_of_block(block: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(block);
    if let Some(padding) = [0; BLOCK].get(block.len()..) {
        hasher.update(padding);
    }
    hasher.finish()
}

/// The root digest of the first `bytes` bytes in `place`: what dm-verity's root hash is on a board with a kernel.
///
/// # Errors
/// If the medium cannot be read; a place that is too short has no root digest and gives `None`.
pub fn root_digest<D: Disk>(storage: &Storage<D>, place: &Place, bytes: u64) -> Result<Option<Digest>, StorageError> {
    let mut list = Hasher::new();
    let mut piece = vec![0; 64 * BLOCK];
    let mut at = 0;
    while at < bytes {
        let wanted = usize::try_from(bytes - at).map_or(piece.len(), |rest| rest.min(piece.len()));
        let into = piece.get_mut(..wanted).unwrap_or_default();
        if storage.read(place, at, into)? != wanted {
            return Ok(None);
        }
        for block in into.chunks(BLOCK) {
            list.update(digest_of_block(block).as_bytes());
        }
        at += wanted as u64;
    }
    Ok(Some(list.finish()))
}

/// The block list of `section`, as the builder of an image makes it.
#[cfg(test)]
pub(crate) fn list_of(section: &[u8]) -> Vec<u8> {
    section.chunks(BLOCK).flat_map(|block| *digest_of_block(block).as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_block_is_only_itself(section in proptest::collection::vec(any::<u8>(), 1..20_000), flip: proptest::sample::Index) {
            let list = BlockList::new(list_of(&section), section.len() as u64).unwrap();
            for (index, block) in section.chunks(BLOCK).enumerate() {
                prop_assert!(list.holds(index as u64, block));
                prop_assert!(!list.holds(index as u64 + list.count(), block));
                let mut changed = block.to_vec();
                changed[flip.index(block.len())] ^= 1;
                prop_assert!(!list.holds(index as u64, &changed));
            }
        }
    }

    #[test]
    fn a_short_last_block_may_not_hide_zeros() {
        let list = BlockList::new(list_of(&[7; 5000]), 5000).unwrap();
        let mut padded = vec![7; 904];
        padded.resize(BLOCK, 0);
        assert!(list.holds(1, &[7; 904]));
        assert!(!list.holds(1, &padded), "a longer block of the same digest is another block");
        assert!(BlockList::new(list_of(&[7; 5000]), 8193).is_none());
    }
}
