//! Any bytes are a dm-verity super block and a partition's `uevent`, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::{partitions, verity::Superblock};

fuzz_target!(|data: &[u8]| {
    drop((Superblock::parse(data), partitions::label(data)));
});
