//! A peer that sends any sequence of messages with any block options is answered or refused, never obeyed beyond the limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_lwm2m::{
    coap::{
        Block, Code, Connection, Limits, Message, OptionNumber,
        connection::Output,
        signal::Capabilities,
    },
    time::Millis,
};

const LIMITS: Limits = Limits { max_body: 4096, max_message: 2048, ..limits() };

const fn limits() -> Limits {
    Limits {
        max_message: 1152,
        max_body: 0,
        max_exchanges: 4,
        max_inbound: 4,
        exchange_timeout: std::time::Duration::from_secs(30),
    }
}

/// Eight bytes a message: kind and code, block1 (3), block2 (3), length of the payload in sixteens.
fn message(bytes: &[u8]) -> Message {
    let uint = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    let codes = [Code::GET, Code::POST, Code::PUT, Code::FETCH, Code::CONTENT, Code::CONTINUE, Code::CHANGED, Code::new(4, 13)];
    let mut message = Message::new(codes[usize::from(bytes[0] & 7)]).path("a");
    if bytes[0] & 8 != 0 {
        message.options.set_uint(OptionNumber::BLOCK1, uint(&bytes[1..4]));
    }
    if bytes[0] & 16 != 0 {
        message.options.set_uint(OptionNumber::BLOCK2, uint(&bytes[4..7]));
    }
    message.payload = vec![bytes[0]; usize::from(bytes[7]) * 16];
    message
}

fuzz_target!(|bytes: &[u8]| {
    let mut out = Vec::new();
    let mut connection: Connection<u8> = Connection::open(LIMITS, 1, &mut out);
    connection.receive(Millis(0), Capabilities { max_message_size: 2048, block_wise: true }.message(), &mut out);
    let mut token = None;
    for (at, chunk) in bytes.chunks_exact(8).enumerate().take(64) {
        let now = Millis(u64::try_from(at).unwrap_or(0));
        if token.is_none() {
            let large = Message::new(Code::PUT).path("b").content(protocol_lwm2m::coap::ContentFormat::OPAQUE, vec![1; 4000]);
            connection.request(now, large, 1, &mut out);
        }
        let mut message = message(chunk);
        if message.code.is_response() {
            message.token = token.unwrap_or_default();
        }
        connection.receive(now, message, &mut out);
        let mut done = std::mem::take(&mut out);
        while !done.is_empty() {
            for output in std::mem::take(&mut done) {
                match output {
                    Output::Send(sent) => {
                        assert!(protocol_lwm2m::coap::tcp::size(&sent) <= 2048);
                        if sent.code.is_request() {
                            token = Some(sent.token);
                        }
                        if let Some(block) = Block::of(&sent.options, OptionNumber::BLOCK2).filter(|_| sent.code.is_success()) {
                            assert!(block.fits(sent.payload.len()));
                        }
                    }
                    Output::Request { id, request } => {
                        assert!(request.payload.len() <= LIMITS.max_body);
                        let response = Message::refusal(Code::CONTENT, &"x".repeat(3000));
                        connection.respond(now, id, response, &mut done);
                    }
                    Output::Response { response, .. } | Output::Notification { response, .. } => {
                        assert!(response.payload.len() <= LIMITS.max_body);
                        token = None;
                    }
                    Output::Failed { .. } | Output::Ended { .. } => token = None,
                    Output::Ready | Output::Close(_) => {}
                }
            }
        }
    }
});
