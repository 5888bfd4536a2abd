//! Spreads what the store has changed to the tasks of this process. Never waits for a slow listener.

use std::future::pending;

use fleet_store::{Change, Signals};
use tokio::sync::broadcast::{self, error::RecvError};

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

/// Waits for a change that `concerns` is true for. Whoever has missed some may have missed that one.
pub(crate) async fn told(changes: &mut broadcast::Receiver<Change>, concerns: impl Fn(&Change) -> bool) {
    loop {
        match changes.recv().await {
            Ok(change) if concerns(&change) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            // The sender lives as long as the service; without it only time wakes a task.
            Err(RecvError::Closed) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol_types::AccountName;
    use tokio::time::timeout;

    use super::*;

    /// Long enough for what is there already; nothing else is to come.
    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_change_of_another_kind_wakes_nobody_and_a_missed_one_wakes_everybody() {
        let (signals, account) = (LocalSignals::new(), AccountName::new("default").unwrap());
        let mut changes = signals.subscribe();
        let is_rollout = |change: &Change| matches!(change, Change::Rollouts(_));
        signals.committed(&[Change::Operations(account.clone())]);
        assert!(timeout(SOON, told(&mut changes, is_rollout)).await.is_err());
        signals.committed(&[Change::Operations(account.clone()), Change::Rollouts(account.clone())]);
        timeout(SOON, told(&mut changes, is_rollout)).await.unwrap();
        for _ in 0..=BACKLOG {
            signals.committed(&[Change::Operations(account.clone())]);
        }
        timeout(SOON, told(&mut changes, is_rollout)).await.unwrap();
    }
}
