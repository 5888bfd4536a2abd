//! Any bytes are the first sector of a boot partition, or none; the rest are its length.
#![no_main]

use device_disk::esp::geometry::{Geometry, SECTOR};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((boot, rest)) = data.split_first_chunk::<SECTOR>() else { return };
    let medium = rest.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    drop(Geometry::parse(boot, medium));
});
