//! Measures: reads what the kernel shows, and makes rates of counters. Keeps the counters of the sample before and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::metrics::{Metric, Readings};

use super::kernel::{self, Ticks, Traffic};
use crate::durable;

/// The longest table of the kernel that is read, in bytes. `/proc/stat` has a line for each processor and counts interrupts in one long line;
/// only its first line is used.
const MAX_TABLE: usize = 256 * 1024;
/// Thermal zones that are looked at.
const MAX_ZONES: usize = 64;

/// Where the kernel shows how the device is.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/proc`
    pub proc: PathBuf,
    /// The folder with the thermal zones.
    pub thermal: PathBuf,
    /// A folder on the file system that keeps state.
    pub storage: PathBuf,
}

impl Places {
    /// Those of Linux, with state below `storage`.
    pub fn linux(storage: PathBuf) -> Self {
        Self { proc: PathBuf::from("/proc"), thermal: PathBuf::from("/sys/class/thermal"), storage }
    }
}

/// Measures one device.
#[derive(Debug)]
pub(super) struct Sensors {
    places: Places,
    ticks: Option<Ticks>,
    traffic: Option<(Traffic, Duration)>,
}

impl Sensors {
    /// Counters are read at once, so that the first sample has rates too.
    pub(super) fn new(places: Places, now: Duration) -> Self {
        let mut sensors = Self { places, ticks: None, traffic: None };
        sensors.measure(now);
        sensors
    }

    /// Measures everything that can be measured here.
    pub(super) fn measure(&mut self, now: Duration) -> Readings {
        let mut readings = Readings::default();
        readings.set(Metric::CpuLoad, self.load());
        readings.set(Metric::MemoryUsed, kernel::memory(&self.table("meminfo")).and_then(share_of));
        readings.set(Metric::StorageUsed, storage(&self.places.storage).and_then(share_of));
        readings.set(Metric::Temperature, hottest(&self.places.thermal));
        if let Some((received, sent)) = self.rates(now) {
            readings.set(Metric::NetworkReceived, Some(received));
            readings.set(Metric::NetworkSent, Some(sent));
        }
        readings
    }

    fn load(&mut self) -> Option<i64> {
        let now = kernel::ticks(&self.table("stat"));
        let before = std::mem::replace(&mut self.ticks, now);
        let (now, before) = (now?, before?);
        share(now.busy.checked_sub(before.busy)?, now.all.checked_sub(before.all)?)
    }

    fn rates(&mut self, now: Duration) -> Option<(i64, i64)> {
        // The network of the agent itself: a process may live in a network namespace of its own.
        let traffic = kernel::traffic(&self.table("net/dev")).map(|traffic| (traffic, now));
        let before = std::mem::replace(&mut self.traffic, traffic);
        let ((now, at), (before, then)) = (traffic?, before?);
        let passed = at.saturating_sub(then);
        Some((rate(now.received, before.received, passed)?, rate(now.sent, before.sent, passed)?))
    }

    fn table(&self, name: &str) -> String {
        let bytes = durable::read(&self.places.proc.join(name), MAX_TABLE).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Thousandths: the steps of shares.
fn share(part: u64, all: u64) -> Option<i64> {
    let thousandths = u128::from(part).checked_mul(1000)?.checked_div(u128::from(all))?;
    i64::try_from(thousandths.min(1000)).ok()
}

fn share_of((part, all): (u64, u64)) -> Option<i64> {
    share(part, all)
}

/// Bytes in a second; none for a counter that went back, which an interface that went away brings about.
fn rate(now: u64, before: u64, passed: Duration) -> Option<i64> {
    let bytes = u128::from(now.checked_sub(before)?);
    let rate = bytes.checked_mul(1000)?.checked_div(passed.as_millis())?;
    i64::try_from(rate).ok()
}

/// Blocks in use and in all of the file system of a folder.
fn storage(folder: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some((found.f_blocks.saturating_sub(found.f_bfree), found.f_blocks))
}

/// Tenths of a degree of the hottest zone.
fn hottest(zones: &Path) -> Option<i64> {
    let found = fs::read_dir(zones).ok()?.flatten();
    let zones = found.filter(|zone| zone.file_name().to_string_lossy().starts_with("thermal_zone")).take(MAX_ZONES);
    let thousandths = zones.filter_map(|zone| {
        // A zone whose sensor is off refuses to be read.
        let bytes = durable::read(&zone.path().join("temp"), 64).ok().flatten()?;
        kernel::temperature(&String::from_utf8_lossy(&bytes))
    });
    Some(thousandths.max()? / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1000);

    struct Board(tempfile::TempDir);

    impl Board {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("proc/net")).unwrap();
            Self(folder)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn places(&self) -> Places {
            let at = self.0.path();
            Places { proc: at.join("proc"), thermal: at.join("thermal"), storage: at.to_owned() }
        }
    }

    #[test]
    fn rates_are_those_since_the_sample_before() {
        let board = Board::new();
        board.write("proc/stat", "cpu  100 0 0 900 0 0 0 0\n");
        board.write("proc/net/dev", "eth0: 1000 0 0 0 0 0 0 0 500 0\n");
        let mut sensors = Sensors::new(board.places(), AT);
        board.write("proc/stat", "cpu  175 0 0 925 0 0 0 0\n");
        board.write("proc/net/dev", "eth0: 4000 0 0 0 0 0 0 0 530 0\n");
        let later = AT + Duration::from_secs(30);
        let readings = sensors.measure(later);
        assert_eq!(readings.get(Metric::CpuLoad), Some(750));
        assert_eq!((readings.get(Metric::NetworkReceived), readings.get(Metric::NetworkSent)), (Some(100), Some(1)));
        // The interface was taken out and put in again; nothing has passed.
        board.write("proc/net/dev", "eth0: 0 0 0 0 0 0 0 0 0 0\n");
        let readings = sensors.measure(later + Duration::from_secs(30));
        assert_eq!((readings.get(Metric::NetworkReceived), readings.get(Metric::CpuLoad)), (None, None));
        let none_passed = sensors.measure(later + Duration::from_secs(30));
        assert_eq!(none_passed.get(Metric::NetworkReceived), None);
    }

    #[test]
    fn the_hottest_zone_counts_and_a_board_without_zones_has_no_temperature() {
        let board = Board::new();
        let mut sensors = Sensors::new(board.places(), AT);
        assert_eq!(sensors.measure(AT).get(Metric::Temperature), None);
        for (zone, text) in [("thermal_zone0", "41000\n"), ("thermal_zone1", "52250\n"), ("cooling_device0", "99000\n")]
        {
            board.write(&format!("thermal/{zone}/temp"), text);
        }
        fs::create_dir(board.0.path().join("thermal/thermal_zone2")).unwrap();
        assert_eq!(sensors.measure(AT).get(Metric::Temperature), Some(522));
    }

    #[test]
    fn the_kernel_of_this_machine_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let mut sensors = Sensors::new(Places::linux(folder.path().to_owned()), AT);
        let share = |steps: Option<i64>| steps.is_some_and(|steps| (0..=1000).contains(&steps));
        // Ticks come a hundred times a second; until one has come nothing has passed of which there could be a share.
        let mut tries = (1..1_000_000).map(|n| sensors.measure(AT + Duration::from_secs(n)));
        let readings = tries.find(|readings| readings.get(Metric::CpuLoad).is_some()).unwrap();
        assert!(share(readings.get(Metric::CpuLoad)) && share(readings.get(Metric::MemoryUsed)), "{readings:?}");
        assert!(share(readings.get(Metric::StorageUsed)), "{readings:?}");
        assert!(readings.get(Metric::MemoryUsed) > Some(0), "{readings:?}");
    }
}
