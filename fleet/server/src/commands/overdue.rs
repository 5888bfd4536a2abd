//! Ends commands whose deadline has come. Looks at those that are overdue, never at all of them.

use std::time::Duration;

use crate::fleet::Fleet;

/// How often it looks; a command ends at most so long after its deadline.
const EVERY: Duration = Duration::from_secs(1);
/// Commands in one transaction.
const TOGETHER: u32 = 256;

/// Runs until the service stops.
pub(crate) async fn end_overdue(fleet: Fleet) {
    let most = usize::try_from(TOGETHER).unwrap_or(usize::MAX);
    while !fleet.stop.is_cancelled() {
        match fleet.store.service_wide().end_overdue_commands(TOGETHER, fleet.clock.now()).await {
            Ok(ended) if ended >= most => continue,
            Ok(_) => {}
            Err(error) => tracing::error!(error = %crate::Chain(&error), "overdue commands were not ended"),
        }
        tokio::select! {
            () = fleet.stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
