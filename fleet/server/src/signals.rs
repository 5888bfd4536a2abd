//! Spreads what the store has changed to the tasks of this process. Never waits for a slow listener.

use fleet_store::{Change, Signals};
use tokio::sync::broadcast;

/// Changes that a listener may fall behind before it is told that it missed some.
const BACKLOG: usize = 1024;

/// The signals of one process.
#[derive(Clone, Debug)]
pub(crate) struct LocalSignals(broadcast::Sender<Change>);

impl LocalSignals {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// Every change from now on; a listener that is told `Lagged` reads the store again.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.0.subscribe()
    }
}

impl Signals for LocalSignals {
    fn committed(&self, changes: &[Change]) {
        for change in changes {
            // Nobody listening is the one way in which this fails.
            drop(self.0.send(change.clone()));
        }
    }
}
