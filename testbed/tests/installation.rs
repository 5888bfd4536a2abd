//! What an installation costs the device, on partitions of the size of a real board's.

use testbed::installation::measure;

/// The aim for the updater, in KiB.
const MOST_KIB: u64 = 16 * 1024;

#[test]
fn an_operating_system_of_90_mb_is_installed_in_less_than_16_mib_of_memory() {
    let work = tempfile::tempdir().unwrap();
    let cost = measure(work.path(), 48, 38).unwrap();
    assert!(cost.bytes > 90_000_000 && cost.peak_kib > 0, "{cost:?}");
    assert!(cost.peak_kib < MOST_KIB, "{cost:?}");
}
