//! The rules that power cuts are replayed with, held against the real firmware and the real loader.

use std::path::Path;

use testbed::{
    images::{self, Order, Signer},
    replay::{Extent, Medium, Recording},
};

/// How many states are started under QEMU.
const STATES: usize = 20;

#[test]
fn os_firmware_and_loader_start_what_the_rules_of_the_replay_say_on_20_states() {
    let build = images::image(Order::first("production"), Signer::Owner).unwrap();
    let (loader, firmware) = (build.join("parts/loader.efi"), build.join("signed/firmware-code.fd"));
    let work = tempfile::tempdir().unwrap();
    let recording = Recording::make(work.path(), Some(&loader)).unwrap();
    let seed = std::env::var_os("REPLAY_SEED").and_then(|text| text.to_str()?.parse().ok());
    let extent = Extent {
        seed: seed.unwrap_or_else(|| u64::from(std::process::id())),
        states: 20_000,
        samples: 400,
        medium: Medium::Keeps,
    };
    let report = recording.explore(extent);
    assert!(report.faults.is_empty(), "REPLAY_SEED={}: {:?}", extent.seed, report.faults.first());
    let differing = recording.differing(&report.samples, STATES);
    assert_eq!(differing.len(), STATES);
    let chosen: Vec<String> =
        differing.into_iter().map(|sample| start(&recording, sample, work.path(), &firmware, extent.seed)).collect();
    // Entries on trial, with every number of tries, and kept ones.
    for counter in ["+3", "+2-1", "+1-2"] {
        assert!(chosen.iter().any(|entry| entry.contains(counter)), "none of {chosen:?} has {counter}");
    }
    assert!(chosen.iter().any(|entry| !entry.contains('+')), "{chosen:?}");
}

fn start(recording: &Recording, sample: &testbed::replay::Sample, work: &Path, firmware: &Path, seed: u64) -> String {
    let compared = recording.compare_with_firmware(sample, work, firmware);
    compared.unwrap_or_else(|e| panic!("REPLAY_SEED={seed}, cut in event {}: {e:#}", sample.events))
}
