//! The time between two looks of a task at what there is to do: never less than a rest, and over when something that concerns it has
//! changed. Never looks itself.

use std::{future::pending, time::Duration};

use fleet_store::Change;
use tokio::{sync::broadcast::Receiver, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{fleet::Fleet, signals::told};

/// Waits between two looks.
pub(crate) struct Pacer {
    stop: CancellationToken,
    changes: Receiver<Change>,
    concerns: fn(&Change) -> bool,
    rest: Duration,
}

impl Pacer {
    /// Hears from now on of changes that `concerns` is true for; `rest` is the shortest time between two looks, so that a thousand
    /// changes at once cost a few looks and not a thousand.
    pub(crate) fn new(fleet: &Fleet, rest: Duration, concerns: fn(&Change) -> bool) -> Self {
        Self { stop: fleet.stop.clone(), changes: fleet.signals.subscribe(), concerns, rest }
    }

    /// Rests, and waits for `pause` to be over or a change, whichever is first. The stop of the service ends all of it.
    pub(crate) async fn wait(&mut self, pause: Duration) {
        self.wait_or(pause, pending()).await;
    }

    /// The same, but not beyond `sooner`.
    pub(crate) async fn wait_or(&mut self, pause: Duration, sooner: impl Future<Output = ()>) {
        let Self { stop, changes, concerns, rest } = self;
        let waits = async {
            sleep(*rest).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = sooner => {}
                () = told(changes, *concerns) => {}
            }
        };
        stop.run_until_cancelled(waits).await;
    }
}
