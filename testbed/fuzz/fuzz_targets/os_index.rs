//! Any bytes are an OS index that reads back as itself, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_release::document::OsIndex;

fuzz_target!(|data: &[u8]| {
    if let Ok(index) = OsIndex::parse(data)
        && let Ok(bytes) = index.to_bytes()
    {
        assert_eq!(OsIndex::parse(&bytes).expect("what was written is read"), index);
    }
});
