//! Configurations, which any service could send a device: whatever bytes come, they are read or refused, and what was read can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::{Configuration, DeviceConfiguration};

fuzz_target!(|bytes: &[u8]| {
    let _level = Configuration::parse_level(bytes);
    let _of_device = DeviceConfiguration::parse(bytes);
    if let Ok(read) = Configuration::parse(bytes) {
        let text = serde_json::to_vec(&read).unwrap();
        // A text that was written with escapes may be longer than it was read.
        if text.len() <= Configuration::MAX_BYTES {
            Configuration::parse(&text).expect("what was written is read");
        }
    }
});
