//! Any bytes are a dm-verity super block with a salt within its field, or are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::verity::Superblock;

fuzz_target!(|data: &[u8]| {
    if let Ok(superblock) = Superblock::parse(data) {
        assert!(superblock.data_blocks >= 2);
        // What stands after the salt's field is not part of it.
        assert_eq!(Superblock::parse(&data[..344]).as_ref(), Ok(&superblock));
        let mut top = [0; Superblock::BLOCK];
        let hash = superblock.root_hash(&top);
        top[0] ^= 1;
        assert_ne!(superblock.root_hash(&top), hash);
    }
});
