//! Writes what devices do, many in one transaction: a fleet that comes for the first time, or back after an outage, costs one flush to
//! the disk for hundreds of devices, and none of them hears yes before the disk has it.

use std::time::Duration;

use fleet_store::{DeviceEvent, PresenceFact, Verdict};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{authority::DeviceIdentity, fleet::Fleet};

/// Facts that wait for their transaction; whoever finds the queue full waits, and their device with them.
const WAITING: usize = 4096;
/// Facts in one transaction.
const TOGETHER: usize = 256;
/// Longest time until a fact is on disk; a device that waits longer hears 5.03 and tries again.
const PATIENCE: Duration = Duration::from_secs(30);

struct Job {
    fact: PresenceFact,
    verdict: oneshot::Sender<Verdict>,
}

/// Hands facts to the task that writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PresenceRecorder(mpsc::Sender<Job>);

/// A fact that did not reach the disk, or not in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("what a device did could not be recorded in time")]
pub(crate) struct NotRecorded;

impl PresenceRecorder {
    /// The recorder and the task that writes; the task ends when the last recorder is dropped.
    pub(crate) fn new(fleet: Fleet) -> (Self, impl Future<Output = ()>) {
        let (sender, jobs) = mpsc::channel(WAITING);
        (Self(sender), write(fleet, jobs))
    }

    /// Records a fact and answers when it is on disk.
    pub(crate) async fn record(&self, identity: &DeviceIdentity, what: DeviceEvent) -> Result<Verdict, NotRecorded> {
        let fact = PresenceFact { account: identity.account.clone(), endpoint: identity.endpoint.clone(), what };
        let recorded = async {
            let (verdict, answer) = oneshot::channel();
            self.0.send(Job { fact, verdict }).await.map_err(|_| NotRecorded)?;
            answer.await.map_err(|_| NotRecorded)
        };
        timeout(PATIENCE, recorded).await.map_err(|_| NotRecorded)?
    }
}

async fn write(fleet: Fleet, mut jobs: mpsc::Receiver<Job>) {
    let mut taken = Vec::new();
    while jobs.recv_many(&mut taken, TOGETHER).await > 0 {
        let (facts, answers): (Vec<_>, Vec<_>) = taken.drain(..).map(|job| (job.fact, job.verdict)).unzip();
        match fleet.store.service_wide().record_presence(&facts, fleet.clock.now()).await {
            Ok(verdicts) => {
                for (fact, (answer, verdict)) in facts.iter().zip(answers.into_iter().zip(verdicts)) {
                    match verdict.map(|verdict| answer.send(verdict)) {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => tracing::debug!("a connection ended before what its device did was recorded"),
                        Err(error) => tracing::error!(
                            account = %fact.account, device = %fact.endpoint, error = %crate::Chain(&error),
                            "what a device did was not recorded"
                        ),
                    }
                }
            }
            // Dropped answers are how the connections hear of it.
            Err(error) => tracing::error!(error = %crate::Chain(&error), "what devices did was not recorded"),
        }
    }
}
