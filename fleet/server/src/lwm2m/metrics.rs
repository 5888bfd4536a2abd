//! Object 26243: how much a device may send to say how it is, what it says, and what of it is on disk. Reports of many devices share a transaction.

use std::time::Duration;

use fleet_store::MetricReport;
use protocol_lwm2m::{
    client::WriteMode,
    coap::ContentFormat,
    formats::{Entry, Value},
    object::{Path, ids, ids::metrics as resource},
    server::{Operation, Registration},
};
use protocol_types::metrics::{Batch, BatchError, Pace};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{errands::Errand, management::Visit};
use crate::{authority::DeviceIdentity, fleet::Fleet};

/// `/26243/0`
const METRICS: Path = Path::instance(ids::METRICS, 0);
/// `/26243/0/0`, the only resource that is observed.
pub(super) const SAMPLES: Path = Path::resource(ids::METRICS, 0, resource::SAMPLES);

/// Reports that wait for their transaction; whoever finds the queue full waits, and their device with them.
const WAITING: usize = 1024;
/// Reports in one transaction.
const TOGETHER: usize = 256;
/// Longest time until a report is on disk; one that waits longer is not acknowledged and comes again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Least time between two reports of a device: nobody may keep the disk busy for others.
const PACE: Duration = Duration::from_millis(200);

/// Whether a device has the object.
fn has_them(registration: &Registration) -> bool {
    registration.paths.iter().any(|path| path.ids().first() == Some(&ids::METRICS))
}

/// How much the device may send.
pub(super) fn write_budget(bytes_per_day: u64) -> Operation {
    write(resource::BUDGET, bytes_per_day)
}

/// What of it is on disk.
pub(super) fn acknowledge(number: u64) -> Operation {
    write(resource::ACKNOWLEDGED, number)
}

pub(super) const fn observe() -> Operation {
    Operation::Observe { path: SAMPLES, accept: Some(ContentFormat::OPAQUE) }
}

fn write(resource: u16, number: u64) -> Operation {
    let path = Path::resource(ids::METRICS, 0, resource);
    let entry = Entry::new(path, Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)));
    Operation::Write {
        path: METRICS,
        mode: WriteMode::Partial,
        entries: vec![entry],
        format: ContentFormat::SENML_CBOR,
    }
}

/// The batch in a notification; none where there is nothing new.
fn batch(entries: &[Entry]) -> Result<Option<Batch>, BatchError> {
    let bytes = entries.iter().find_map(|entry| match &entry.value {
        Value::Opaque(bytes) if entry.path == SAMPLES => Some(bytes),
        _ => None,
    });
    let batch = Batch::decode(bytes.map_or(&[], Vec::as_slice))?;
    Ok(Some(batch).filter(|batch| !batch.samples.is_empty()))
}

/// Seconds between two samples that are kept, whatever a device sends: half of what it was asked for.
fn least_gap(bytes_per_day: u64) -> u64 {
    Pace::within(bytes_per_day).map_or(u64::MAX, |pace| (pace.sample().as_secs() / 2).max(1))
}

/// What a connection knows of the metrics of its device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measures {
    /// Whether the device has the object on this registration.
    is_there: bool,
    /// The newest sample that is on disk.
    pub(super) kept_until: u64,
    /// When the next report is taken at the earliest.
    next: Instant,
}

impl Measures {
    pub(super) fn new() -> Self {
        Self { is_there: false, kept_until: 0, next: Instant::now() }
    }
}

impl Visit {
    /// The device has registered: it hears how much it may send, and then it is listened to.
    pub(super) fn measures_from_now_on(&mut self, registration: &Registration) {
        self.measures = Measures { is_there: has_them(registration), ..self.measures };
        self.write_metrics_budget();
        if self.measures.is_there && self.devices.fleet.config.metrics.bytes_per_day > 0 {
            self.errands.add(Errand::ObserveMetrics);
        }
    }

    pub(super) fn write_metrics_budget(&mut self) {
        if self.measures.is_there {
            self.errands.add(Errand::WriteMetricsBudget);
        }
    }

    /// Keeps what the device has measured, and has it told so.
    pub(super) async fn measured(&mut self, entries: &[Entry]) {
        sleep_until(self.measures.next).await;
        self.measures.next = Instant::now() + PACE;
        let identity = &self.facts.identity;
        if !self.devices.live.is_newest(identity, &self.live) {
            return;
        }
        let batch = match batch(entries) {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(error) => {
                let error = crate::Chain(&error);
                tracing::warn!(account = %identity.account, device = %identity.endpoint, %error, "metrics were not understood");
                return;
            }
        };
        let newest = batch.samples.last().map_or(0, |sample| sample.number);
        let least_gap_s = least_gap(self.devices.fleet.config.metrics.bytes_per_day);
        if self.devices.metrics.record(identity, batch, least_gap_s).await {
            self.measures.kept_until = newest;
            self.errands.add(Errand::AcknowledgeMetrics);
        }
    }
}

struct Job {
    report: MetricReport,
    kept: oneshot::Sender<()>,
}

/// Hands reports to the task that writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct MetricsRecorder(mpsc::Sender<Job>);

impl MetricsRecorder {
    /// The recorder and the task that writes; the task ends when the last recorder is dropped.
    pub(crate) fn new(fleet: Fleet) -> (Self, impl Future<Output = ()>) {
        let (sender, jobs) = mpsc::channel(WAITING);
        (Self(sender), keep(fleet, jobs))
    }

    /// Whether a report is on disk.
    async fn record(&self, identity: &DeviceIdentity, batch: Batch, least_gap_s: u64) -> bool {
        let (account, endpoint) = (identity.account.clone(), identity.endpoint.clone());
        let recorded = async {
            let (kept, answer) = oneshot::channel();
            let report = MetricReport { account, endpoint, batch, least_gap_s };
            self.0.send(Job { report, kept }).await.is_ok() && answer.await.is_ok()
        };
        timeout(PATIENCE, recorded).await.unwrap_or_else(|_| {
            let patience_s = PATIENCE.as_secs();
            tracing::warn!(
                account = %identity.account, device = %identity.endpoint, patience_s,
                "metrics wait too long for the database; the device sends them again"
            );
            false
        })
    }
}

async fn keep(fleet: Fleet, mut jobs: mpsc::Receiver<Job>) {
    let mut taken = Vec::new();
    while jobs.recv_many(&mut taken, TOGETHER).await > 0 {
        let (reports, answers): (Vec<_>, Vec<_>) = taken.drain(..).map(|job| (job.report, job.kept)).unzip();
        match fleet.store.service_wide().record_metrics(&reports, fleet.clock.now()).await {
            Ok(()) => {
                for answer in answers {
                    if answer.send(()).is_err() {
                        tracing::debug!("a connection ended before its metrics were kept");
                    }
                }
            }
            // Dropped answers are how the connections hear of it; the devices send again.
            Err(error) => tracing::error!(error = %crate::Chain(&error), "metrics of devices were not kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::metrics::{Metric, Readings, Sample};

    use super::*;

    #[test]
    fn a_batch_is_found_in_the_samples_and_nowhere_else() {
        let sample = Sample { number: 1, age_s: 0, readings: Readings::default().with(Metric::Boots, 1) };
        let sent = Batch { epoch: 1, dropped: 0, samples: vec![sample] };
        let at = |path, value| [Entry::new(path, value)];
        let found = batch(&at(SAMPLES, Value::Opaque(sent.encode())));
        assert_eq!(found, Ok(Some(sent.clone())));
        let empty = Batch { samples: Vec::new(), ..sent.clone() };
        assert_eq!(batch(&at(SAMPLES, Value::Opaque(empty.encode()))), Ok(None));
        let elsewhere = Path::resource(ids::METRICS, 0, 7);
        assert!(batch(&at(elsewhere, Value::Opaque(sent.encode()))).is_err());
        assert!(batch(&at(SAMPLES, Value::Integer(7))).is_err());
        assert_eq!((least_gap(128 * 1024), least_gap(u64::MAX)), (32, 1));
    }

    proptest! {
        #[test]
        fn whatever_a_device_says_is_read_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(Some(batch)) = batch(&[Entry::new(SAMPLES, Value::Opaque(bytes))]) {
                prop_assert!(batch.samples.len() <= Batch::MAX_SAMPLES);
            }
        }
    }
}
