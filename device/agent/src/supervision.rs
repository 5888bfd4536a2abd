//! What the agent tells the service manager (`sd_notify(3)`): that it is ready, and that its loop turns. Without a manager, nobody is told.

use std::time::Duration;

use protocol_types::Heartbeat;
use sd_notify::NotifyState;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cause::Chain;

/// Tells it.
pub(crate) fn tell(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!(error = %Chain(&e), "the service manager does not listen");
    }
}

/// Shows a manager that waits `patience` for a sign of life that the process lives: for one that has no session, whose loop would.
pub(crate) async fn keep_alive(patience: Option<Duration>, stop: CancellationToken) {
    let (start, mut heartbeat) = (Instant::now(), Heartbeat::new(patience));
    let beat = async {
        loop {
            if heartbeat.beat(start.elapsed()) {
                tell(NotifyState::Watchdog);
            }
            match heartbeat.wait(start.elapsed()) {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        }
    };
    stop.run_until_cancelled(beat).await;
}
