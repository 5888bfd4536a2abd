//! Carries decisions out: looks at every rollout under way whenever something changed and every few seconds, and remembers nothing.

use std::time::Duration;

use fleet_store::{Change, StoreError};

use super::plan::decide;
use crate::{fleet::Fleet, pacer::Pacer};

/// Longest time between two looks: windows open and close by time alone, and a signal may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Shortest time between two looks.
const REST: Duration = Duration::from_millis(25);

/// Runs until the service stops.
pub(crate) async fn reconcile(fleet: Fleet) {
    reconcile_at(fleet, REST, LOOK_AGAIN).await;
}

/// The same; it rests so long after each look, and without a change it looks at such intervals.
pub(crate) async fn reconcile_at(fleet: Fleet, rest: Duration, look_again: Duration) {
    let mut pacer = Pacer::new(&fleet, rest, concerns);
    while !fleet.stop.is_cancelled() {
        if let Err(error) = look(&fleet).await {
            tracing::error!(error = %crate::Chain(&error), "rollouts could not be reconciled");
        }
        pacer.wait(look_again).await;
    }
}

/// Whether a rollout may depend on it.
const fn concerns(change: &Change) -> bool {
    match change {
        Change::Device(..) | Change::Standing(..) | Change::Rollouts(_) => true,
        Change::Event(_)
        | Change::Desired(..)
        | Change::Configuration(_)
        | Change::Released(..)
        | Change::Labels(..)
        | Change::Operations(_)
        | Change::Command(..)
        | Change::Job(..) => false,
    }
}

async fn look(fleet: &Fleet) -> Result<(), StoreError> {
    for (account, id) in fleet.store.service_wide().rollouts_under_way().await? {
        let now = fleet.clock.now();
        let scope = fleet.store.account(&account);
        // One rollout whose rows are damaged must not hold up the others.
        match scope.reconcile_rollout(&id, |facts| decide(facts, now), now).await {
            Ok(0) => {}
            Ok(steps) => {
                fleet.metrics.rollout_steps.inc_by(u64::try_from(steps).unwrap_or(u64::MAX));
                tracing::info!(%account, rollout = %id, steps, "devices moved on");
            }
            Err(error) => {
                let error = crate::Chain(&error);
                tracing::error!(%account, rollout = %id, %error, "a rollout could not be reconciled");
            }
        }
    }
    Ok(())
}
