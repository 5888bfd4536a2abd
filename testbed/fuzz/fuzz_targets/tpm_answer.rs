//! Any bytes are an answer of a TPM to one of our questions, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::tpm;

fuzz_target!(|data: &[u8]| {
    if let Ok(floor) = tpm::floor(data) {
        assert!(floor <= tpm::HIGHEST_FLOOR);
    }
    drop((tpm::about_floor(data), tpm::about_factory(data), tpm::factory(data), tpm::done(data)));
});
