//! The rules that power cuts are replayed with (`tests/replay.rs`), held against the real firmware and the real loader.

use std::hash::{BuildHasher as _, RandomState};

use testbed::{
    images::{self, Order, Signer},
    replay::{Extent, Medium, Recording},
};

use crate::environment::number;

/// How many states are started under QEMU.
const STATES: usize = 20;

#[test]
fn os_firmware_and_loader_start_and_write_what_the_rules_of_the_replay_say_in_20_states() {
    let build = images::image(Order::first("production"), Signer::Owner).unwrap();
    let (loader, firmware) = (build.join("parts/loader.efi"), build.join("signed/firmware-code.fd"));
    let work = tempfile::tempdir().unwrap();
    let recording = Recording::make(work.path(), Some(&loader)).unwrap();
    let seed = number("MBL_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one("states"));
    let report = recording.explore(Extent { seed, states: 20_000, samples: STATES, medium: Medium::Keeps });
    assert!(report.faults.is_empty(), "MBL_TEST_SEED={seed}: {:?}", report.faults.first());
    assert_eq!(report.samples.len(), STATES);
    let start = |sample: &testbed::replay::Sample| {
        let compared = recording.compare_with_firmware(sample, work.path(), &firmware);
        compared.unwrap_or_else(|e| panic!("MBL_TEST_SEED={seed}, cut in event {}: {e:#}", sample.events))
    };
    let chosen: Vec<String> = report.samples.iter().map(start).collect();
    assert!(
        chosen.iter().any(|entry| entry.contains('+')) && chosen.iter().any(|entry| !entry.contains('+')),
        "{chosen:?}"
    );
}
