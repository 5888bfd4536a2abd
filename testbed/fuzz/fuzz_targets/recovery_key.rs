//! A sealed recovery key is read and written back the same, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::recovery::SealedRecoveryKey;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = SealedRecoveryKey::parse(data) {
        let written = key.to_json();
        assert_eq!(SealedRecoveryKey::parse(written.as_bytes()).expect("what was written is read"), key);
    }
});
