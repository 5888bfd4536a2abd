//! Any bytes are a record of firmware slots that is written back as it was read, or are refused; of two places one counts or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::FirmwareRecord;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = FirmwareRecord::parse(data) {
        assert_eq!(record.to_bytes()[..24], data[..24]);
        assert_eq!(FirmwareRecord::newest([data, data]), Some((0, record)));
    }
    let (first, second) = data.split_at(data.len().min(FirmwareRecord::BYTES));
    if let Some((place, record)) = FirmwareRecord::newest([first, second]) {
        assert_eq!(FirmwareRecord::parse([first, second][place]), Ok(record));
    }
});
