//! Signs a new timestamp for every account well before the old one ends, so that devices do not take silence for an attack.

use std::time::Duration;

use fleet_store::{AccountScope, StoreError};
use protocol_release::publish::Accepted;
use protocol_types::UnixSeconds;
use tokio::time::sleep;

use super::publish::{LIFETIMES, publication, read, sign};
use crate::{fleet::Fleet, rest::Refusal};

/// How often the service looks for timestamps that end.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// Runs until the service stops.
pub(crate) async fn keep_fresh(fleet: Fleet) {
    while !fleet.stop.is_cancelled() {
        look(&fleet).await;
        tokio::select! {
            () = fleet.stop.cancelled() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn look(fleet: &Fleet) {
    let now = fleet.clock.now();
    // At half of its life: a service that was off for a day still comes in time.
    let due = UnixSeconds(now.0.saturating_add(LIFETIMES.timestamp_s / 2));
    let accounts = match fleet.store.service_wide().timestamps_ending(due).await {
        Ok(accounts) => accounts,
        Err(error) => return tracing::error!(error = %crate::Chain(&error), "timestamps were not looked at"),
    };
    for account in accounts {
        match renew(&fleet.store.account(&account), now).await {
            Ok(()) => tracing::info!(%account, "timestamp renewed"),
            Err(refusal) => tracing::error!(%account, problem = %refusal.0, "the timestamp was not renewed"),
        }
    }
}

/// Signs the present state again. If somebody publishes meanwhile, that has signed a new timestamp too.
async fn renew(account: &AccountScope, now: UnixSeconds) -> Result<(), Refusal> {
    let before = account.repository().await?;
    let repository = read(&account.newest_metadata().await?)?;
    let online = sign(account, &repository, now).await?;
    let unchanged = Accepted { repository, files: Vec::new(), artifacts: Vec::new() };
    match account.publish(&publication(before, &unchanged, online, None, now)?, now).await {
        Ok(()) | Err(StoreError::Stale { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
