//! What a service does every hour for itself: its certificates are renewed, and what has become old is forgotten.

use std::time::{Duration, Instant};

use fleet_store::StoreError;
use protocol_types::UnixSeconds;

use crate::{device_trust, fleet::Fleet};

const HOUSEKEEPING: Duration = Duration::from_secs(60 * 60);
const DAY: u64 = 24 * 60 * 60;
/// How long the service remembers the keys of repeated requests, in seconds.
const REMEMBER_REQUESTS: u64 = 7 * DAY;
/// How long it remembers tries to sign in that failed, in seconds.
const REMEMBER_TRIES: u64 = DAY;
/// How long it remembers commands and jobs that have ended, in seconds.
const REMEMBER_COMMANDS: u64 = 30 * DAY;
/// Commands that it forgets at a time.
const FORGET_COMMANDS: u32 = 10_000;
/// Jobs that it forgets at a time; their commands go with them.
const FORGET_JOBS: u32 = 10;
/// How long it remembers from which request something came, in seconds.
const REMEMBER_CAUSES: u64 = 30 * DAY;

/// Keeps house until the service stops.
pub(crate) async fn keep_house(fleet: Fleet) {
    while !fleet.stop.is_cancelled() {
        let now = fleet.clock.now();
        if let Err(error) = fleet.certificate.renew(&fleet.authority.service, now) {
            tracing::error!(error = %crate::Chain(&error), "the certificate of the ports was not renewed");
        }
        device_trust::renew_issuers(&fleet, now).await;
        fleet.rates.forget_quiet();
        fleet.strangers.forget_quiet(Instant::now());
        forget(&fleet, now).await;
        tokio::select! {
            () = tokio::time::sleep(HOUSEKEEPING) => {}
            () = fleet.stop.cancelled() => {}
        }
    }
}

async fn forget(fleet: &Fleet, now: UnixSeconds) {
    let store = fleet.store.service_wide();
    let before = |seconds: u64| UnixSeconds(now.0.saturating_sub(seconds));
    said("requests", store.forget_idempotency_keys(before(REMEMBER_REQUESTS)).await);
    said("tries to sign in", store.forget_tries(before(REMEMBER_TRIES)).await);
    said("sign-ins that are over", store.forget_single_sign_ons(now).await);
    said("commands", store.forget_commands(before(REMEMBER_COMMANDS), FORGET_COMMANDS).await);
    said("jobs", store.forget_jobs(before(REMEMBER_COMMANDS), FORGET_JOBS).await);
    said("traces", store.forget_traces(before(REMEMBER_CAUSES)).await);
}

/// Says what was not forgotten; the next hour tries again.
fn said<T>(what: &str, forgotten: Result<T, StoreError>) {
    if let Err(error) = forgotten {
        tracing::warn!(what, error = %crate::Chain(&error), "what is old was not forgotten");
    }
}
