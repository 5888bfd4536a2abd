//! Any stream, cut anywhere, gives the same messages; none is larger than the limit, and what was read is written back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_lwm2m::coap::{Message, tcp};

const LIMIT: usize = 1152;

fn read(bytes: &[u8], piece: usize) -> (Vec<Message>, bool) {
    let mut decoder = tcp::Decoder::new(LIMIT);
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, false),
            }
        }
    }
    (messages, true)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, 1), "how a stream is cut must not matter");
    for message in &whole.0 {
        let mut written = Vec::new();
        tcp::encode(message, &mut written);
        assert!(written.len() <= LIMIT);
        assert_eq!(tcp::decode(&written).as_ref(), Ok(message));
    }
});
