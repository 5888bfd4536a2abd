//! Any bytes are a head and lines of an enrolment list, or faults with a code; what is read keeps the rules of labels.
#![no_main]

use fleet_store::{ListHead, fingerprint, fingerprint_text, is_key, is_tag};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Ok(head) = ListHead::parse(lines.next().unwrap_or_default()) else { return };
    for line in lines {
        match head.read(line) {
            Ok(listed) => {
                assert_eq!(fingerprint(&fingerprint_text(&listed.fingerprint)), Some(listed.fingerprint));
                assert!(listed.labels.add_tags.iter().all(|tag| is_tag(tag)));
                assert!(listed.labels.attributes.iter().all(|(key, _)| is_key(key)));
            }
            Err(fault) => assert!(!fault.code().is_empty() && fault.to_string().len() < 1000),
        }
    }
});
