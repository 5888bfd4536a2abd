//! Any payload, sent to any path, is read or refused; what was read lies below the path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_lwm2m::{formats::tlv, object::Path};

fuzz_target!(|bytes: &[u8]| {
    let [object, depth, payload @ ..] = bytes else { return };
    let base = Path::resource_instance(u16::from(*object), 0, 0, 0).upper(usize::from(depth % 5));
    let Ok(mut entries) = tlv::decode(&base, payload) else { return };
    assert!(entries.len() <= payload.len() && entries.iter().all(|entry| base.contains(&entry.path)));
    entries.sort_by_key(|entry| entry.path);
    entries.dedup_by_key(|entry| entry.path);
    if base != Path::ROOT {
        // Compared as text, because a number that is none (NaN) does not equal itself.
        let again = tlv::decode(&base, &tlv::encode(&base, &entries).expect("what was read can be written"));
        assert_eq!(format!("{again:?}"), format!("Ok({entries:?})"));
    }
});
