//! Any bytes are the head of a unified kernel image with one command line of bounded length, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_release::document::Span;
use protocol_types::signed_cmdline::SignedCmdline;

fuzz_target!(|data: &[u8]| {
    if let Ok(span) = Span::of_cmdline(data) {
        assert!(span.bytes <= SignedCmdline::MAX_BYTES);
    }
    drop(SignedCmdline::parse(data));
});
