//! What the service tells its service manager (`sd_notify(3)`): that it is up, that it stops, and as long as its database answers that it
//! lives. Without a manager, nobody is told.

use std::future::pending;

use protocol_types::Heartbeat;
use sd_notify::NotifyState;
use tokio::time::{Instant, sleep};

use crate::{Chain, fleet::Fleet};

/// Tells it.
pub(crate) fn tell(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!(error = %Chain(&e), "the service manager does not listen");
    }
}

/// Shows a manager that waits for signs of life that the database answers, until the service stops. A service that can only refuse is
/// better restarted.
pub(crate) async fn keep_alive(fleet: Fleet) {
    let (start, mut heartbeat) = (Instant::now(), Heartbeat::new(sd_notify::watchdog_enabled()));
    let beat = async {
        loop {
            if heartbeat.beat(start.elapsed()) && fleet.store.ready().await.is_ok() {
                tell(NotifyState::Watchdog);
            }
            match heartbeat.wait(start.elapsed()) {
                Some(wait) => sleep(wait).await,
                None => pending().await,
            }
        }
    };
    fleet.stop.run_until_cancelled(beat).await;
}
