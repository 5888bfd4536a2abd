//! Configurations, which any service could send a device: whatever bytes come, they are read or refused, and what was read can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::{Configuration, DeviceConfiguration};

fuzz_target!(|bytes: &[u8]| {
    let _level = Configuration::parse_level(bytes);
    if let Ok(read) = DeviceConfiguration::parse(bytes) {
        // What a device gets is settings and secrets, and without secrets no more than settings.
        assert!(!read.secrets.is_empty() || Configuration::parse(bytes).is_ok() || has_secrets(bytes));
    }
    if let Ok(read) = Configuration::parse(bytes) {
        let text = serde_json::to_vec(&read).unwrap();
        // A text that was written with escapes may be longer than it was read.
        if text.len() <= Configuration::MAX_BYTES {
            Configuration::parse(&text).expect("what was written is read");
        }
    }
});

fn has_secrets(bytes: &[u8]) -> bool {
    let document: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes).unwrap();
    document.contains_key(DeviceConfiguration::SECRETS)
}
