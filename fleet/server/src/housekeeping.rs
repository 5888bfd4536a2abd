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
/// How long it remembers uploads that nobody goes on with, in seconds.
const REMEMBER_UPLOADS: u64 = 7 * DAY;
/// How long it remembers tokens and sessions that have ended, in seconds.
const REMEMBER_TOKENS: u64 = 90 * DAY;
/// Commands, rows of reports, uploads or tokens that it forgets at a time.
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
    said("uploads", forget_uploads(fleet, before(REMEMBER_UPLOADS)).await);
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

/// Forgets artifacts of which bytes are missing and of which none has come since `before`.
async fn forget_uploads(fleet: &Fleet, before: UnixSeconds) -> Result<(), StoreError> {
    let mut last = None;
    loop {
        let some = fleet.store.service_wide().unfinished_artifacts(before, last.as_ref(), MANY).await?;
        for (account, digest) in &some {
            if fleet.stop.is_cancelled() {
                return Ok(());
            }
            // Whoever uploads it at this moment goes on with it.
            let Some(turn) = fleet.artifacts.turn(account, *digest) else { continue };
            match turn.forget(before).await {
                Ok(true) => fleet.store.account(account).forget_artifact(digest, before).await?,
                Ok(false) => {}
                Err(error) => tracing::warn!(
                    %account, %digest, error = %crate::Chain(&error), "the bytes of an old upload were not removed"
                ),
            }
        }
        last = some.last().cloned();
        if last.is_none() {
            return Ok(());
        }
    }
}

/// Says what was not forgotten; the next hour tries again.
fn said<T>(what: &str, forgotten: Result<T, StoreError>) {
    if let Err(error) = forgotten {
        tracing::warn!(what, error = %crate::Chain(&error), "what is old was not forgotten");
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs::File, time::UNIX_EPOCH};

    use fleet_store::{LineFault, ListBatch, ListLine, OperationRequest};
    use protocol_types::Digest;
    use serde_json::json;

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

    #[tokio::test]
    async fn an_upload_is_forgotten_a_week_after_its_last_byte() {
        let service = TestService::start().await;
        let (caller, account) = (service.caller("default").await, service.account("default").await);
        let whole = caller.upload(b"whole").await;
        let (part, announced) = (Digest::of(b"part"), Digest::of(b"announced"));
        for digest in [part, announced] {
            caller.post("/artifacts", &json!({"digest": digest, "size": 500})).await;
        }
        caller.piece(&part, 0, b"par").await;
        let begun = service.now();
        let file = service.fleet.config.data_dir.join("artifacts/default").join(part.hex()).with_extension("part");
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(begun.0 + REMEMBER_UPLOADS)).unwrap();
        let left = async |after: u64| {
            forget(&service.fleet, UnixSeconds(begun.0 + after)).await;
            let rows = account.artifacts_after("", 10).await.unwrap();
            rows.into_iter().map(|row| row.digest).collect::<BTreeSet<_>>()
        };
        assert_eq!(left(REMEMBER_UPLOADS - 60).await, BTreeSet::from([whole, part, announced]), "none is old");
        assert_eq!(left(REMEMBER_UPLOADS + 60).await, BTreeSet::from([whole, part]), "bytes came meanwhile");
        assert_eq!(left(2 * REMEMBER_UPLOADS + 60).await, BTreeSet::from([whole]));
        let turn = service.fleet.artifacts.turn(account.name(), part).unwrap();
        assert!(turn.open(3).await.unwrap().is_none(), "the bytes are gone, too");
    }
}
