//! Any bytes are the head of a firmware image package of at most 8 MiB, or are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_release::document::FirmwarePackage;

fuzz_target!(|data: &[u8]| {
    if let Ok(package) = FirmwarePackage::parse(data) {
        assert!((96..=FirmwarePackage::MAX_BYTES).contains(&package.bytes));
        // What stands behind the head says nothing.
        let head = &data[..data.len().min(FirmwarePackage::HEAD_BYTES)];
        assert_eq!(FirmwarePackage::parse(head).ok(), Some(package));
    }
});
