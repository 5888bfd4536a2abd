//! Any pack is read or refused; what was read can be written and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_lwm2m::{formats::senml_cbor, object::Path};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(records) = senml_cbor::records(bytes) {
        assert!(records.len() <= bytes.len());
    }
    let Ok(entries) = senml_cbor::decode(&Path::ROOT, bytes) else { return };
    let written = senml_cbor::encode(&Path::ROOT, &entries).expect("what was read can be written");
    let again = senml_cbor::decode(&Path::ROOT, &written);
    assert_eq!(format!("{again:?}"), format!("Ok({entries:?})"));
});
