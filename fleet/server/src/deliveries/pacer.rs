//! The time between two looks at what is to be sent: never less than a rest, and over when something may have become due.

use std::time::Duration;

use fleet_store::Change;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;

/// Waits between two looks.
pub(super) struct Pacer {
    stop: CancellationToken,
    changes: Receiver<Change>,
    rest: Duration,
}

impl Pacer {
    /// Longest time between two looks: a signal may be lost.
    pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

    /// Hears of events from now on; `rest` is the shortest time between two looks.
    pub(super) fn new(fleet: &Fleet, rest: Duration) -> Self {
        Self { stop: fleet.stop.clone(), changes: fleet.signals.subscribe(), rest }
    }

    /// Rests, and waits for `pause` to be over, an event, or `sooner`, whichever is first. The stop of the service ends all of it.
    pub(super) async fn wait(&mut self, pause: Duration, sooner: impl Future<Output = ()>) {
        let Self { stop, changes, rest } = self;
        let waits = async {
            sleep(*rest).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = sooner => {}
                () = told(changes) => {}
            }
        };
        stop.run_until_cancelled(waits).await;
    }
}

/// Waits for an event.
async fn told(changes: &mut Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(Change::Event(_)) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            // The sender lives as long as the service; without it only time wakes this task.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
