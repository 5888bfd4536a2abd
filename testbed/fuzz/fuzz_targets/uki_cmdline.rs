//! Any bytes are the head of a unified kernel image with command lines of bounded length, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_release::document::Span;
use protocol_types::signed_cmdline::SignedCmdline;

fuzz_target!(|data: &[u8]| {
    let further = Span::of_profiles(data).unwrap_or_default();
    for span in Span::of_cmdline(data).into_iter().chain(further) {
        assert!(span.bytes <= SignedCmdline::MAX_BYTES);
    }
    drop(SignedCmdline::parse(data));
});
