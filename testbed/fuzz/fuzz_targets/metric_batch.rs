//! Batches of samples, which any device could send: whatever bytes come, they are read or refused, and what was read reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_types::metrics::Batch;

fuzz_target!(|bytes: &[u8]| {
    let Ok(batch) = Batch::decode(bytes) else { return };
    assert!(batch.samples.len() <= Batch::MAX_SAMPLES);
    assert!(batch.samples.is_sorted_by(|a, b| a.number < b.number && a.age_s >= b.age_s));
    assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
});
