//! Moves jobs on: chooses their devices, lets them go a few at a time, and ends them. Remembers nothing; the store knows where each is.

mod order;

use std::time::Duration;

use fleet_store::{Change, StoreError};
use protocol_types::JobState;

pub(crate) use order::{JobOrder, is_probe};

use crate::{fleet::Fleet, pacer::Pacer};

/// Longest time between two looks: turns come with time, and a signal may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Least time between two looks, so that a fleet that comes back costs one and not thousands.
const REST: Duration = Duration::from_millis(100);
/// Devices that are chosen in one transaction.
const DEVICES: u32 = 200;

/// Runs until the service stops.
pub(crate) async fn work(fleet: Fleet) {
    let mut pacer = Pacer::new(&fleet, REST, |change| matches!(change, Change::Job(..) | Change::Device(..)));
    while !fleet.stop.is_cancelled() {
        match round(&fleet).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::error!(error = %crate::Chain(&error), "jobs could not be looked at"),
        }
        pacer.wait(LOOK_AGAIN).await;
    }
}

/// Moves every job under way on by a step; answers whether there is more to do at once.
pub(crate) async fn round(fleet: &Fleet) -> Result<bool, StoreError> {
    let mut goes_on = false;
    for (name, row) in fleet.store.service_wide().open_jobs().await? {
        if fleet.stop.is_cancelled() {
            return Ok(false);
        }
        let (account, now) = (fleet.store.account(&name), fleet.clock.now());
        let moved = match row.state {
            // Those that were chosen have their turns at once.
            JobState::Waiting => account.choose_devices(row.number, DEVICES, now).await.map(|_| true),
            _ => account.move_job(row.number, now).await.map(|_| false),
        };
        match moved {
            Ok(more) => goes_on |= more,
            // One job whose rows are damaged must not hold up the others.
            Err(error) => {
                let (job, error) = (row.id(), crate::Chain(&error));
                tracing::error!(account = %name, %job, %error, "a job did not move on");
            }
        }
    }
    Ok(goes_on)
}
