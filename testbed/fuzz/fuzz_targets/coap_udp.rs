//! Any datagram is read or refused; what was read is written back to bytes that read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_lwm2m::coap::udp::{decode, encode};

fuzz_target!(|bytes: &[u8]| {
    let Ok(datagram) = decode(bytes) else { return };
    let mut written = Vec::new();
    encode(&datagram, &mut written);
    assert_eq!(decode(&written).as_ref(), Ok(&datagram));
    assert!(written.len() <= bytes.len(), "the shortest form is written");
});
