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
/// How long it remembers commands, jobs and operations that have ended, in seconds.
const REMEMBER_WORK: u64 = 30 * DAY;
/// How long it remembers tokens and sessions that have ended, in seconds.
const REMEMBER_TOKENS: u64 = 90 * DAY;
/// Commands, rows of reports or tokens that it forgets at a time.
const MANY: u32 = 10_000;
/// Jobs or operations that it forgets at a time, once their commands and reports are gone.
const FEW: u32 = 10;
/// How long others have their turn to write between one time and the next.
const BREATH: Duration = Duration::from_millis(100);
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
    let (work, tokens) = (before(REMEMBER_WORK), before(REMEMBER_TOKENS));
    said("commands", little_by_little(fleet, MANY, || store.forget_commands(work, MANY)).await);
    let of_jobs = little_by_little(fleet, MANY, || store.forget_commands_of_jobs(work, MANY)).await;
    said("commands of jobs", of_jobs);
    said("jobs", little_by_little(fleet, FEW, || store.forget_jobs(work, FEW)).await);
    let reports = little_by_little(fleet, MANY, || store.forget_operation_rows(work, MANY)).await;
    said("reports of operations", reports);
    said("operations", little_by_little(fleet, FEW, || store.forget_operations(work, FEW)).await);
    said("tokens", little_by_little(fleet, MANY, || store.forget_tokens(tokens, MANY)).await);
    said("traces", store.forget_traces(before(REMEMBER_CAUSES)).await);
}

/// Forgets, at most `limit` at a time, until nothing is left that is old or the service stops.
async fn little_by_little<F: Future<Output = Result<u64, StoreError>>>(
    fleet: &Fleet,
    limit: u32,
    some: impl Fn() -> F,
) -> Result<(), StoreError> {
    while some().await? >= u64::from(limit) && !fleet.stop.is_cancelled() {
        tokio::time::sleep(BREATH).await;
    }
    Ok(())
}

/// Says what was not forgotten; the next hour tries again.
fn said<T>(what: &str, forgotten: Result<T, StoreError>) {
    if let Err(error) = forgotten {
        tracing::warn!(what, error = %crate::Chain(&error), "what is old was not forgotten");
    }
}

#[cfg(test)]
mod tests {
    use fleet_store::{LineFault, ListBatch, ListLine, OperationRequest};

    use super::*;
    use crate::test_service::TestService;

    #[tokio::test]
    async fn what_is_old_goes_in_one_hour_however_much_it_is() {
        let service = TestService::start().await;
        let account = service.account("acme").await;
        let ended = service.now();
        let lines = [ListLine { line: 2, read: Err(LineFault::Malformed) }];
        let list = ListBatch { at: "", lines: &lines, next: "end", is_end: true };
        for _ in 0..=3 * FEW {
            let request = OperationRequest::EnrolList { file: "list".into() };
            let number = account.create_operation(&request, None, None, ended).await.unwrap().number;
            account.enrol_listed(number, &list, ended).await.unwrap();
        }
        forget(&service.fleet, UnixSeconds(ended.0 + REMEMBER_WORK)).await;
        assert_eq!(account.operations_before(None, 100).await.unwrap().len(), 31, "nothing is old yet");
        forget(&service.fleet, UnixSeconds(ended.0 + REMEMBER_WORK + 1)).await;
        assert_eq!(account.operations_before(None, 100).await.unwrap().len(), 1, "the newest stays");
    }
}
