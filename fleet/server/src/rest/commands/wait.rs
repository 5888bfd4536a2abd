//! Waits for news of the commands of one device, for answers that may come late. Never holds an answer longer than the caller asked.

use std::time::Duration;

use fleet_store::Change;
use protocol_types::{AccountName, EndpointName};
use tokio::{
    sync::broadcast::Receiver,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::Fleet,
    rest::{Refusal, Reply},
    signals::told,
};

/// Longest wait, in seconds.
const MOST_S: u64 = 20;

/// Somebody who waits.
pub(crate) struct Waiter {
    changes: Receiver<Change>,
    wanted: Change,
    ends: Instant,
    stop: CancellationToken,
}

impl Waiter {
    /// Begins to listen, before the first look, so that nothing falls between the two.
    pub(crate) fn begin(
        fleet: &Fleet,
        (account, endpoint): (&AccountName, &EndpointName),
        wait_s: Option<u64>,
    ) -> Reply<Self> {
        let seconds = wait_s.unwrap_or_default();
        if seconds > MOST_S {
            return Err(Refusal::value("wait_s", format!("an answer waits at most {MOST_S} seconds")));
        }
        Ok(Self {
            changes: fleet.signals.subscribe(),
            wanted: Change::Command(account.clone(), endpoint.clone()),
            ends: Instant::now() + Duration::from_secs(seconds),
            stop: fleet.stop.clone(),
        })
    }

    /// Waits until there may be news; false once the time is over or the service stops.
    pub(crate) async fn changed(&mut self) -> bool {
        let Self { changes, wanted, ends, stop } = self;
        tokio::select! {
            () = told(changes, |change| *change == *wanted) => true,
            () = sleep_until(*ends) => false,
            () = stop.cancelled() => false,
        }
    }
}
