//! Any bytes are a signed command line or are refused; what was read has at most what the line said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::signed_cmdline::SignedCmdline;

fuzz_target!(|data: &[u8]| {
    if let Ok(cmdline) = SignedCmdline::parse(data) {
        let text = std::str::from_utf8(data).expect("a line that was read is text");
        assert!(text.contains(&cmdline.root_hash.hex()));
        let mut twice = data.to_vec();
        twice.extend(b" mbl.security_version=0");
        assert!(SignedCmdline::parse(&twice).is_err(), "a second security version must not go unnoticed");
    }
});
