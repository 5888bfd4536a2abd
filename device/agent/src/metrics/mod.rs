//! How the device is, in numbers: measured by time, kept until the service has it, and reported within a budget of bytes. Object 26243 shows it;
//! this module never touches a socket.

mod keeper;
mod kernel;
mod life;
mod reporter;
mod ring;
mod sensors;

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use protocol_types::metrics::Readings;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, watch};

pub use keeper::MetricsKeeper;
pub use life::Life;
pub use sensors::Places;

use crate::random;
use reporter::Reporter;

/// Bytes in a day until the service names a number.
pub const DEFAULT_BUDGET: u64 = 128 * 1024;

/// What the tasks of one device share about its metrics. A device that does not measure has none.
#[derive(Debug)]
pub struct Metrics {
    reporter: OnceLock<Mutex<Reporter>>,
    /// Counts the reports that became due.
    due: watch::Sender<u64>,
    /// Wakes the keeper when the budget changes, and with it the time to measure.
    paced: Notify,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { reporter: OnceLock::new(), due: watch::Sender::new(0), paced: Notify::new() }
    }
}

impl Metrics {
    /// From now on the device measures.
    pub(crate) fn begin(&self) {
        // Enough to tell one run of the agent from the others of this device.
        let epoch = u32::try_from(random::number() >> 32).unwrap_or_default();
        self.reporter.get_or_init(|| Mutex::new(Reporter::new(epoch, DEFAULT_BUDGET, now())));
    }

    /// Whether the device measures.
    pub fn is_there(&self) -> bool {
        self.reporter.get().is_some()
    }

    /// Wakes whoever sends reports.
    pub(crate) fn due(&self) -> watch::Receiver<u64> {
        self.due.subscribe()
    }

    /// The batch that is sent now; none if the device does not measure.
    pub(crate) fn report(&self) -> Option<Vec<u8>> {
        Some(self.reporter()?.report(now()))
    }

    /// The service has every sample up to this number.
    pub(crate) fn acknowledge(&self, number: u64) {
        if let Some(mut reporter) = self.reporter() {
            reporter.acknowledge(number);
        }
        self.look();
    }

    /// Takes a budget of the service.
    pub(crate) fn set_budget(&self, bytes_per_day: u64) {
        let Some(mut reporter) = self.reporter() else { return };
        if reporter.budget() != bytes_per_day {
            tracing::info!(bytes_per_day, "budget of metrics taken");
            reporter.set_budget(bytes_per_day, now());
        }
        drop(reporter);
        self.paced.notify_one();
    }

    /// Bytes in a day.
    pub(crate) fn budget(&self) -> u64 {
        self.reporter().map_or(0, |reporter| reporter.budget())
    }

    /// Samples that nobody will ever see, and what was measured last.
    pub(crate) fn seen(&self) -> (u64, Readings) {
        self.reporter().map_or((0, Readings::default()), |reporter| (reporter.dropped(), *reporter.latest()))
    }

    fn next_sample(&self) -> Option<Duration> {
        self.reporter()?.next_sample()
    }

    /// Something was measured.
    pub(crate) fn sampled(&self, readings: Readings) {
        if let Some(mut reporter) = self.reporter() {
            reporter.sampled(readings, now());
        }
        self.look();
    }

    /// Says so if a report is due.
    fn look(&self) {
        let is_due = self.reporter().is_some_and(|mut reporter| reporter.is_due(now()));
        if is_due {
            self.due.send_modify(|count| *count = count.saturating_add(1));
        }
    }

    fn reporter(&self) -> Option<MutexGuard<'_, Reporter>> {
        Some(self.reporter.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Time since the start of the system, in which it may have been suspended: a sample ages in that time too.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Duration::new(seconds, nanos)
}
