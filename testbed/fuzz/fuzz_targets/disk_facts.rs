//! What the kernel, the firmware and a disk say before anything is trusted: any bytes are read or passed over.
#![no_main]

use device_init::loader_entry;
use libfuzzer_sys::fuzz_target;
use protocol_types::{boot::BootEntry, luks, partitions};

fuzz_target!(|data: &[u8]| {
    if let Some(entry) = loader_entry::parse(data) {
        assert_eq!(BootEntry::parse(&entry.to_string()), Some(entry));
    }
    if let Some(label) = partitions::label(data) {
        assert!(!label.contains('\n') && label.len() <= data.len());
    }
    // A header in the first place decides, whatever the others hold; none there means none only without a second copy.
    let places: Vec<&[u8]> = data.chunks(luks::BYTES).take(luks::PLACES.len()).collect();
    if luks::examine(places.iter().copied()) == luks::Header::None {
        assert!(places.iter().skip(1).all(|place| !place.starts_with(b"SKUL\xba\xbe")));
    }
});
