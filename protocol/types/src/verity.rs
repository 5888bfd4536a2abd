//! The first block of a dm-verity hash partition, and the root hash that its tree has. Never touches a disk.
//!
//! Nothing here is trusted: the super block is unsigned, and it only serves to find the slot whose tree has the root hash of
//! the signed command line. The kernel checks every block against that hash again.

use crate::{Digest, Hasher};

/// The super block as `veritysetup format` writes it, format version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// How many blocks of data the tree is over.
    pub data_blocks: u64,
    salt: Vec<u8>,
}

/// Bytes that are not a super block of our images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a dm-verity super block of this system: {0}")]
pub struct SuperblockError(&'static str);

impl Superblock {
    /// The length of the super block on disk.
    pub const BYTES: usize = 512;
    /// The one block size that our images have, for data and for hashes.
    pub const BLOCK: usize = 4096;
    /// Where the top block of the tree stands: in the block after the super block's.
    pub const TOP_AT: u64 = 4096;

    /// Reads a super block.
    ///
    /// # Errors
    /// If it is not a version 1 super block with SHA-256 and blocks of 4 KiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let mut rest = bytes;
        if take(&mut rest)? != *b"verity\0\0" {
            return Err(SuperblockError("no signature"));
        }
        let [version, hash_type] = [u32::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?)];
        let _uuid: [u8; 16] = take(&mut rest)?;
        let algorithm: [u8; 32] = take(&mut rest)?;
        let [data_block, hash_block] = [u32::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?)];
        let data_blocks = u64::from_le_bytes(take(&mut rest)?);
        let salt_size = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let _padding: [u8; 6] = take(&mut rest)?;
        let salt: [u8; 256] = take(&mut rest)?;
        if version != 1 || hash_type != 1 {
            return Err(SuperblockError("another format than version 1, type 1"));
        }
        if algorithm.strip_prefix(b"sha256").is_none_or(|padding| padding.iter().any(|b| *b != 0)) {
            return Err(SuperblockError("another algorithm than sha256"));
        }
        if [data_block, hash_block].iter().any(|size| usize::try_from(*size) != Ok(Self::BLOCK)) {
            return Err(SuperblockError("other blocks than of 4096 bytes"));
        }
        if data_blocks < 2 {
            return Err(SuperblockError("no tree over fewer than two blocks"));
        }
        let salt = salt.get(..salt_size).ok_or(SuperblockError("a salt of more than 256 bytes"))?.to_vec();
        Ok(Self { data_blocks, salt })
    }

    /// The root hash of a tree whose top block this is.
    pub fn root_hash(&self, top: &[u8; Self::BLOCK]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(&self.salt);
        hasher.update(top);
        hasher.finish()
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SuperblockError> {
    let (head, tail) = rest.split_first_chunk().ok_or(SuperblockError("fewer than 512 bytes"))?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn superblock(salt: &[u8]) -> Vec<u8> {
        let mut bytes = b"verity\0\0".to_vec();
        bytes.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        bytes.extend([7; 16]);
        bytes.extend(b"sha256");
        bytes.resize(64, 0);
        bytes.extend(4096_u32.to_le_bytes());
        bytes.extend(4096_u32.to_le_bytes());
        bytes.extend(16_u64.to_le_bytes());
        bytes.extend(u16::try_from(salt.len()).unwrap().to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(salt);
        bytes.resize(512, 0);
        bytes
    }

    #[test]
    fn the_root_hash_is_the_digest_of_salt_and_top_block() {
        let block = Superblock::parse(&superblock(b"salt")).unwrap();
        assert_eq!(block.data_blocks, 16);
        let mut text = b"salt".to_vec();
        text.extend([9; 4096]);
        assert_eq!(block.root_hash(&[9; 4096]), Digest::of(&text));
    }

    #[test]
    fn a_weaker_algorithm_or_a_salt_beyond_its_field_is_refused() {
        let mut sha1 = superblock(b"");
        sha1[32..38].copy_from_slice(b"sha1\0\0");
        assert!(Superblock::parse(&sha1).is_err());
        let mut long = superblock(b"");
        long[80..82].copy_from_slice(&257_u16.to_le_bytes());
        assert!(Superblock::parse(&long).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            drop(Superblock::parse(&bytes));
        }

        #[test]
        fn any_change_of_a_good_super_block_is_read_without_panic(at in 0_usize..512, to: u8) {
            let mut bytes = superblock(b"salt");
            bytes[at] = to;
            drop(Superblock::parse(&bytes));
        }
    }
}
