//! Tells of devices that have become late or lost. Looks at the few whose deadline has come, never at all of them.

use std::time::Duration;

use crate::fleet::Fleet;

/// How often it looks; a device is told of at most so long after its deadline.
const EVERY: Duration = Duration::from_secs(5);
/// Devices in one transaction.
const TOGETHER: u32 = 256;

/// Runs until the service stops.
pub(crate) async fn tell_overdue(fleet: Fleet) {
    tell_overdue_every(fleet, EVERY).await;
}

/// The same; it looks at such intervals.
pub(crate) async fn tell_overdue_every(fleet: Fleet, every: Duration) {
    let most = usize::try_from(TOGETHER).unwrap_or(usize::MAX);
    while !fleet.stop.is_cancelled() {
        match fleet.store.service_wide().tell_overdue(TOGETHER, fleet.clock.now()).await {
            Ok(told) if told >= most => continue,
            Ok(_) => {}
            Err(error) => tracing::error!(error = %crate::Chain(&error), "overdue devices were not told of"),
        }
        tokio::select! {
            () = fleet.stop.cancelled() => {}
            () = tokio::time::sleep(every) => {}
        }
    }
}
