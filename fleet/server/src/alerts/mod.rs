//! Looks whether rules of alerts hold, again and again. Remembers nothing: the store knows every open alert, and `step` decides what
//! becomes of it.

mod step;
#[cfg(test)]
mod tests;

use std::time::Duration;

use fleet_store::StoreError;
use tokio::time::{Instant, sleep};

use crate::fleet::Fleet;

/// Shortest time between two looks: an alert is at most so long behind what it is about, as long as looking is quick.
const EVERY: Duration = Duration::from_secs(5);
/// Looking takes at most one part in so many of the time, however many devices and rules there are.
const SHARE: u32 = 10;

/// Runs until the service stops.
pub(crate) async fn look_after(fleet: Fleet) {
    while !fleet.stop.is_cancelled() {
        let began = Instant::now();
        if let Err(error) = round(&fleet).await {
            tracing::error!(error = %crate::Chain(&error), "alert rules could not be looked at");
        }
        let pause = EVERY.max(began.elapsed() * SHARE);
        tokio::select! {
            () = fleet.stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Looks at every rule once.
pub(crate) async fn round(fleet: &Fleet) -> Result<(), StoreError> {
    for (account, rule) in fleet.store.service_wide().enabled_alert_rules().await? {
        if fleet.stop.is_cancelled() {
            break;
        }
        let now = fleet.clock.now();
        let scope = fleet.store.account(&account);
        let patience = rule.patience;
        // One rule that cannot be asked must not hold up the others.
        let rule_name = &rule.name;
        match scope.evaluate_alert_rule(&rule, |facts| step::step(*facts, patience, now), now).await {
            Ok(0) => {}
            Ok(changes) => tracing::info!(%account, rule = %rule_name, changes, "alerts have changed"),
            Err(error) => {
                let error = crate::Chain(&error);
                tracing::error!(%account, rule = %rule_name, %error, "an alert rule could not be looked at");
            }
        }
    }
    Ok(())
}
