//! Makes coarser time series of devices' metrics in the background and forgets what is old: a bounded number of devices in a transaction, and
//! room for other writers in between.

use std::time::Duration;

use fleet_store::MetricRetention;

use crate::fleet::Fleet;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);
/// Devices in one transaction.
const TOGETHER: u32 = 32;
/// Between two transactions it rests so many times as long as the first one took: writers that devices wait for come first.
const REST: u32 = 3;

/// Runs until the service stops.
pub(crate) async fn condense(fleet: Fleet) {
    let settings = &fleet.config.metrics;
    let retention = MetricRetention {
        sample_days: settings.sample_days,
        fine_days: settings.fine_days,
        hour_days: settings.hour_days,
    };
    let most = usize::try_from(TOGETHER).unwrap_or(usize::MAX);
    while !fleet.stop.is_cancelled() {
        let began = tokio::time::Instant::now();
        let pause = match fleet.store.service_wide().condense_metrics(TOGETHER, &retention, fleet.clock.now()).await {
            Ok(done) if done >= most => began.elapsed() * REST,
            Ok(_) => EVERY,
            Err(error) => {
                tracing::error!(error = %crate::Chain(&error), "time series were not condensed");
                EVERY
            }
        };
        tokio::select! {
            () = fleet.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
