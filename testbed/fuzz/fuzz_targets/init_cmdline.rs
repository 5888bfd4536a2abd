//! Any bytes are a signed command line or are refused; what was read has at most what the line said.
#![no_main]

use device_init::cmdline::Cmdline;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(cmdline) = Cmdline::parse(data) {
        let text = std::str::from_utf8(data).expect("a line that was read is text");
        assert!(text.contains(&cmdline.root_hash.hex()));
        let mut twice = data.to_vec();
        twice.extend(b" mbl.security_version=0");
        assert!(Cmdline::parse(&twice).is_err(), "a second security version must not go unnoticed");
    }
});
