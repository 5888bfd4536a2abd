//! Any bytes are a command line of the board `host` that reads back as itself, or none.
#![no_main]

use device_updater::cmdline::Cmdline;
use libfuzzer_sys::fuzz_target;
use protocol_types::boot::BootEntry;

fuzz_target!(|data: &[u8]| {
    if let Ok(cmdline) = Cmdline::parse(data) {
        assert_eq!(Cmdline::parse(cmdline.to_string().as_bytes()).expect("what was written is read"), cmdline);
    }
    if let Ok(name) = std::str::from_utf8(data)
        && let Some(entry) = BootEntry::parse(name)
    {
        assert_eq!(BootEntry::parse(&entry.to_string()), Some(entry));
    }
});
