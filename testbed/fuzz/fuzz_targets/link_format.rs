//! Any text is read or refused; links that can be written read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_lwm2m::formats::link::{parse, write};

fuzz_target!(|bytes: &[u8]| {
    let Ok(links) = parse(bytes) else { return };
    assert!(links.len() <= bytes.len());
    let again = parse(write(&links).as_bytes()).expect("what was written can be read");
    assert_eq!(write(&again), write(&links));
});
