//! Claims about jobs on both databases: each device once, never more at a time than allowed, whatever is cut off.

use protocol_types::{CommandState, Digest, EndpointName, JobState, UnixSeconds};

use crate::{
    AccountScope, Delivered, DeviceEvent, EnrolmentRule, FactoryIdentity, MAX_OPEN_JOBS, NewAuthority, NewCertificate,
    NewJob, Parent, PresenceFact, Promise, RequestKey, StoreError,
    tests::{Database, NOW},
};

fn name(n: usize) -> EndpointName {
    EndpointName::new(format!("gate-{n:02}")).unwrap()
}

fn later(seconds: u64) -> UnixSeconds {
    UnixSeconds(NOW.0 + seconds)
}

/// The connection of a device.
const fn session(n: usize) -> u64 {
    n as u64 + 1
}

async fn presence(db: &Database, n: usize, what: DeviceEvent) {
    let fact = PresenceFact { account: "one".parse().unwrap(), endpoint: name(n), what };
    for verdict in db.store.service_wide().record_presence(&[fact], NOW).await.unwrap() {
        verdict.unwrap().unwrap();
    }
}

async fn connect(db: &Database, n: usize) {
    let promise = Promise::new(300, false);
    presence(db, n, DeviceEvent::Registers { serial: format!("o{n}"), session: session(n), promise }).await;
}

/// An account with so many devices, all connected.
async fn with_devices(db: &Database, count: usize) -> AccountScope {
    let account = db.account("one").await;
    let authority = NewAuthority {
        name: "factory".into(),
        subject: "CN=factory".into(),
        fingerprint: "00".repeat(32),
        certificate: vec![0x30, 0x00],
        not_after: NOW,
    };
    let ca = account.add_authority(&authority, None, NOW).await.unwrap().id;
    for n in 0..count {
        let endpoint = name(n);
        account.add_enrolment(&EnrolmentRule::new(Some(endpoint.clone()), None).unwrap(), NOW).await.unwrap();
        let shown = FactoryIdentity { endpoint: &endpoint, authority: &ca, serial: "f0", fingerprint: &[0; 32] };
        account.admit(shown, NOW).await.unwrap().unwrap();
        let serial = format!("o{n}");
        let certificate =
            NewCertificate { serial: &serial, parent: Parent::Factory("f0"), not_after: later(1_000_000) };
        account.record_certificate(&endpoint, certificate, NOW).await.unwrap().unwrap();
        connect(db, n).await;
    }
    account
}

async fn start(account: &AccountScope, concurrency: u32, per_minute: u32) -> u64 {
    let filter = "name != \"kiln-01\"".parse().unwrap();
    let wanted =
        NewJob { kind: "probe", filter: &filter, request: "{}", concurrency, per_minute, deadline: later(3600) };
    account.create_job(&wanted, None, NOW).await.unwrap().number
}

async fn choose_all(account: &AccountScope, job: u64) {
    while account.choose_devices(job, 2, NOW).await.unwrap() {}
}

/// Lets a device take its part and end it.
async fn work(account: &AccountScope, n: usize, came: &Delivered) -> bool {
    let Some(row) = account.begin_command(&name(n), session(n), NOW).await.unwrap() else { return false };
    assert!(account.command_moved((row.number, session(n)), &Delivered::Taken(None), NOW).await.unwrap());
    let under_way = account.job_under_way(&name(n), session(n)).await.unwrap().unwrap();
    assert_eq!(under_way.number, row.number);
    account.command_moved((row.number, session(n)), came, NOW).await.unwrap()
}

async fn count(account: &AccountScope, job: u64, state: CommandState) -> u64 {
    let counts = account.job_counts(job).await.unwrap();
    counts.into_iter().find(|(found, _)| *found == state).map_or(0, |(_, devices)| devices)
}

#[tokio::test]
async fn a_job_that_is_cut_off_between_any_two_steps_asks_each_device_once_and_a_few_at_a_time() {
    let db = Database::new().await;
    let account = with_devices(&db, 5).await;
    let job = start(&account, 2, 100).await;
    assert!(account.choose_devices(job, 2, NOW).await.unwrap());
    let db = db.reopen().await;
    let account = db.account("one").await;
    choose_all(&account, job).await;
    assert!(!account.choose_devices(job, 2, NOW).await.unwrap(), "nobody is chosen twice");
    assert_eq!(count(&account, job, CommandState::Waiting).await, 5);
    assert_eq!(account.begin_command(&name(0), session(0), NOW).await.unwrap(), None, "its turn has not come");
    assert_eq!(account.move_job(job, NOW).await.unwrap(), 2);
    assert_eq!(account.move_job(job, NOW).await.unwrap(), 0, "two are at it");
    assert!(work(&account, 0, &Delivered::Done(Some("up".into()))).await);
    assert!(!work(&account, 2, &Delivered::Done(None)).await, "its turn has not come");
    let db = db.reopen().await;
    let account = db.account("one").await;
    assert_eq!(account.move_job(job, NOW).await.unwrap(), 1);
    assert!(work(&account, 1, &Delivered::Failed("not_supported".into(), "no".into())).await);
    while account.move_job(job, NOW).await.unwrap() > 0 {
        for n in 2..5 {
            work(&account, n, &Delivered::Done(None)).await;
        }
    }
    let ended = account.job(job).await.unwrap();
    assert_eq!((ended.state, ended.ended), (JobState::Finished, Some(NOW)));
    assert_eq!(
        (count(&account, job, CommandState::Done).await, count(&account, job, CommandState::Failed).await),
        (4, 1)
    );
    assert_eq!(account.job_device(job, &name(0)).await.unwrap().result.as_deref(), Some("up"));
    let failed = account.job_devices_after(job, Some(CommandState::Failed), 0, 10).await.unwrap();
    assert_eq!((failed.len(), &failed[0].endpoint), (1, &name(1)));
    let all = account.job_devices_after(job, None, failed[0].number, 2).await.unwrap();
    assert_eq!(all.iter().map(|row| row.endpoint.clone()).collect::<Vec<_>>(), [name(2), name(3)]);
    assert!(db.store.service_wide().open_jobs().await.unwrap().is_empty());
    let two = db.account("two").await;
    assert!(matches!(two.job(job).await, Err(StoreError::NotFound { kind: "job", .. })));
    assert!(two.job_devices_after(job, None, 0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_keeps_its_rate_and_a_device_that_went_away_gives_its_turn_to_another() {
    let db = Database::new().await;
    let account = with_devices(&db, 4).await;
    let job = start(&account, 4, 1).await;
    choose_all(&account, job).await;
    assert_eq!(account.move_job(job, NOW).await.unwrap(), 1);
    assert_eq!(account.move_job(job, later(59)).await.unwrap(), 0, "one in a minute");
    presence(&db, 0, DeviceEvent::Left { session: session(0) }).await;
    // It has not taken its part: it waits for another turn, and the next one in order has the minute's.
    assert_eq!(account.move_job(job, later(61)).await.unwrap(), 1);
    assert!(!work(&account, 0, &Delivered::Done(None)).await);
    assert!(work(&account, 1, &Delivered::Done(None)).await);
    connect(&db, 0).await;
    assert_eq!(account.move_job(job, later(130)).await.unwrap(), 1);
    assert!(work(&account, 0, &Delivered::Done(None)).await);
}

#[tokio::test]
async fn a_device_that_sleeps_holds_nobody_up_and_has_its_turn_when_it_is_there() {
    let db = Database::new().await;
    let account = with_devices(&db, 3).await;
    presence(&db, 0, DeviceEvent::Left { session: session(0) }).await;
    let job = start(&account, 1, 100).await;
    choose_all(&account, job).await;
    for n in [1, 2] {
        assert_eq!(account.move_job(job, NOW).await.unwrap(), 1);
        assert!(work(&account, n, &Delivered::Done(None)).await);
    }
    assert_eq!(account.move_job(job, NOW).await.unwrap(), 0);
    assert_eq!(account.job(job).await.unwrap().state, JobState::Running);
    connect(&db, 0).await;
    assert_eq!(account.move_job(job, NOW).await.unwrap(), 1);
    // A connection that breaks is no end: the device itself knows a job that it has had.
    let row = account.begin_command(&name(0), session(0), NOW).await.unwrap().unwrap();
    account.command_moved((row.number, session(0)), &Delivered::Taken(None), NOW).await.unwrap();
    account.commands_cut_off(&name(0), NOW).await.unwrap();
    assert!(work(&account, 0, &Delivered::Done(None)).await);
    account.move_job(job, NOW).await.unwrap();
    assert_eq!(account.job(job).await.unwrap().state, JobState::Finished);
}

#[tokio::test]
async fn a_device_does_one_job_at_a_time_and_at_the_deadline_the_job_ends_without_it() {
    let db = Database::new().await;
    let account = with_devices(&db, 2).await;
    let (first, second) = (start(&account, 9, 100).await, start(&account, 9, 100).await);
    for job in [first, second] {
        choose_all(&account, job).await;
        account.move_job(job, NOW).await.unwrap();
    }
    let row = account.begin_command(&name(0), session(0), NOW).await.unwrap().unwrap();
    assert_eq!(row.job, Some(first));
    account.command_moved((row.number, session(0)), &Delivered::Taken(None), NOW).await.unwrap();
    assert_eq!(account.begin_command(&name(0), session(0), NOW).await.unwrap(), None, "it is at the first one");
    db.store.service_wide().end_overdue_commands(10, later(3600)).await.unwrap();
    assert_eq!(account.job_device(first, &name(0)).await.unwrap().state, CommandState::Unknown);
    assert_eq!(account.job_device(first, &name(1)).await.unwrap().state, CommandState::Expired);
    account.move_job(first, later(3600)).await.unwrap();
    assert_eq!(account.job(first).await.unwrap().state, JobState::Finished);
}

#[tokio::test]
async fn a_cancelled_job_asks_nobody_more_and_one_that_has_ended_is_not_cancelled() {
    let db = Database::new().await;
    let account = with_devices(&db, 3).await;
    let job = start(&account, 1, 100).await;
    choose_all(&account, job).await;
    account.move_job(job, NOW).await.unwrap();
    let row = account.begin_command(&name(0), session(0), NOW).await.unwrap().unwrap();
    account.command_moved((row.number, session(0)), &Delivered::Taken(None), NOW).await.unwrap();
    let cancelled = account.cancel_job(job, NOW).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!(account.cancel_job(job, NOW).await.unwrap(), cancelled, "a second time changes nothing");
    assert_eq!(account.move_job(job, NOW).await.unwrap(), 0);
    assert_eq!(count(&account, job, CommandState::Cancelled).await, 2);
    assert!(account.command_moved((row.number, session(0)), &Delivered::Done(None), NOW).await.unwrap());
    assert_eq!(count(&account, job, CommandState::Done).await, 1, "what was told goes on");
    let other = start(&account, 1, 100).await;
    account.cancel_job(other, NOW).await.unwrap();
    assert!(!account.choose_devices(other, 10, NOW).await.unwrap());
    let third = start(&account, 9, 100).await;
    choose_all(&account, third).await;
    account.move_job(third, NOW).await.unwrap();
    for n in 0..3 {
        assert!(work(&account, n, &Delivered::Done(None)).await);
    }
    account.move_job(third, NOW).await.unwrap();
    let refused = account.cancel_job(third, NOW).await.unwrap_err();
    assert_eq!(refused.to_string(), "job `j-3` is finished");
    let all = db.store.service_wide();
    assert_eq!(all.forget_jobs(later(1), 10).await.unwrap(), 1, "the one that has no commands");
    assert_eq!(all.forget_commands_of_jobs(NOW, 10).await.unwrap(), 0, "none is old");
    assert_eq!(all.forget_commands_of_jobs(later(1), 4).await.unwrap(), 4, "no more at a time than was asked for");
    assert_eq!(all.forget_commands_of_jobs(later(1), 4).await.unwrap(), 2);
    assert!(account.commands_before(&name(0), None, 10).await.unwrap().is_empty());
    assert_eq!(all.forget_jobs(later(1), 10).await.unwrap(), 2, "jobs go after their commands");
}

#[tokio::test]
async fn a_repeated_request_finds_its_job_one_too_many_is_refused_and_what_cannot_be_read_is_damage() {
    let db = Database::new().await;
    let account = with_devices(&db, 1).await;
    let filter = "".parse().unwrap();
    let (concurrency, per_minute, deadline) = (1, 1, later(3600));
    let wanted = NewJob { kind: "probe", filter: &filter, request: "{}", concurrency, per_minute, deadline };
    let key = RequestKey { key: "k".into(), request: Digest::of(b"request") };
    let first = account.create_job(&wanted, Some(&key), NOW).await.unwrap();
    assert_eq!(account.create_job(&wanted, Some(&key), later(1)).await.unwrap(), first);
    assert_eq!(account.create_job(&wanted, None, NOW).await.unwrap().number, first.number + 1, "no number is lost");
    for _ in 2..MAX_OPEN_JOBS {
        account.create_job(&wanted, None, NOW).await.unwrap();
    }
    let refused = account.create_job(&wanted, None, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooMany { most: MAX_OPEN_JOBS, .. }), "{refused}");
    let mut tx = db.store.write().await.unwrap();
    sqlx::query("UPDATE idempotency_keys SET resource = 'seven'").execute(tx.sql()).await.unwrap();
    sqlx::query("UPDATE jobs SET state = 'asleep' WHERE number = 2").execute(tx.sql()).await.unwrap();
    tx.commit().await.unwrap();
    let refused = account.create_job(&wanted, Some(&key), NOW).await.unwrap_err();
    assert_eq!(refused.to_string(), "idempotency_keys holds a row whose resource cannot be read");
    let refused = account.job(2).await.unwrap_err();
    assert_eq!(refused.to_string(), "jobs holds a row whose state cannot be read");
}
