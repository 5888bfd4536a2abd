//! Any bytes are a release document that reads back as itself, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_release::document::Release;

fuzz_target!(|data: &[u8]| {
    if let Ok(release) = Release::parse(data)
        && let Ok(bytes) = release.to_bytes()
    {
        assert_eq!(Release::parse(&bytes).expect("what was written is read"), release);
    }
});
