//! Any bytes are a host uki that reads back as itself, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_release::document::HostUki;

fuzz_target!(|data: &[u8]| {
    if let Ok(uki) = HostUki::parse(data)
        && let Ok(bytes) = uki.to_bytes()
    {
        assert_eq!(HostUki::parse(&bytes).expect("what was written is read"), uki);
    }
});
