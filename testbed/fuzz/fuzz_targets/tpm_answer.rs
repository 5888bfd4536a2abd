//! Any answer of a TPM is a floor within its index, or is refused; only the two right codes stand for no floor yet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::{SecurityVersion, tpm};

fuzz_target!(|data: &[u8]| {
    if let Ok(floor) = tpm::floor(data) {
        assert!(floor <= tpm::HIGHEST_FLOOR);
        assert!(floor == SecurityVersion(0) || data.len() >= 24);
    }
    if tpm::about_floor(data).is_ok() {
        assert!(data.len() <= tpm::MAX_ANSWER);
    }
    if tpm::done(data).is_ok() {
        assert!(tpm::about_floor(data).is_err(), "an answer has one tag");
    }
    drop((tpm::about_factory(data), tpm::factory(data)));
});
