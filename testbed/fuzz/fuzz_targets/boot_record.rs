//! A boot record is read and written back the same, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::BootRecord;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = BootRecord::parse(data) {
        let written = record.to_json();
        if written.len() <= BootRecord::MAX_BYTES {
            assert_eq!(BootRecord::parse(&written).expect("what was written is read"), record);
        }
    }
});
