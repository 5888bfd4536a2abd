//! Any bytes are settings of a system that read back as themselves, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_release::document::SystemConfiguration;

fuzz_target!(|data: &[u8]| {
    if let Ok(settings) = SystemConfiguration::parse(data)
        && let Ok(bytes) = settings.to_bytes()
    {
        assert_eq!(SystemConfiguration::parse(&bytes).expect("what was written is read"), settings);
    }
});
