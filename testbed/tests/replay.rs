//! Power cuts at the level of sectors: the states that they could leave are made from a recorded history of updates, and each must
//! start a whole system. `docs/formats/power-cuts.md` says what is assumed of a disk.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a fault fails the test, and the seed makes it come again"
)]

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Instant,
};

use testbed::replay::{Extent, Medium, Recording};

/// A number in the environment, for longer runs and for making a fault come again.
fn setting(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var_os(name);
    text.map_or(otherwise, |text| text.to_str().unwrap().parse().unwrap())
}

#[test]
fn every_state_that_a_power_cut_can_leave_starts_a_whole_system_and_the_update_ends_well() {
    let extent = Extent {
        seed: setting("MBL_TEST_SEED", RandomState::new().hash_one("states")),
        states: usize::try_from(setting("MBL_TEST_STATES", 100_000)).unwrap(),
        samples: usize::try_from(setting("MBL_TEST_SAMPLES", 40)).unwrap(),
        medium: Medium::Keeps,
    };
    let work = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut recording = Recording::make(work.path(), None).unwrap();
    eprintln!("MBL_TEST_SEED={} recorded in {:?}", extent.seed, began.elapsed());
    let report = recording.explore(extent);
    eprintln!("{} states in {:?}: {:?}", report.states, began.elapsed(), report.outcomes);
    let few: Vec<_> = report.faults.iter().take(20).collect();
    assert!(few.is_empty(), "{} faults, with MBL_TEST_SEED={}: {few:#?}", report.faults.len(), extent.seed);
    assert!(report.states >= extent.states, "{report:?}");
    for (number, sample) in report.samples.iter().enumerate() {
        let ended = recording.go_on(sample);
        assert!(ended.is_ok(), "sample {number}, cut in event {}: {:#}", sample.events, ended.unwrap_err());
    }
    eprintln!("{} states gone on with, in all {:?}", report.samples.len(), began.elapsed());
}

#[test]
fn a_disk_that_forgets_what_was_flushed_is_found_to_start_nothing_or_a_mixture() {
    let work = tempfile::tempdir().unwrap();
    let recording = Recording::make(work.path(), None).unwrap();
    let extent = Extent { seed: 1, states: 20_000, samples: 0, medium: Medium::Forgets };
    let report = recording.explore(extent);
    let found: u64 =
        ["nothing", "a mixture"].iter().filter_map(|kind| report.outcomes.get(*kind)).map(|count| *count as u64).sum();
    assert!(found > 100 && report.outcomes.contains_key("a mixture"), "{:?}", report.outcomes);
    assert!(report.faults.len() as u64 >= found, "each of them is a fault");
}
