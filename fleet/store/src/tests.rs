//! Opens databases for the tests of every table: SQLite in a folder of its own, or PostgreSQL when one of its tests says so.

mod postgres;

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use postgres::Server;
use protocol_types::{AccountName, RolloutAction, UnixSeconds};
use sqlx::{Executor, Row};

use crate::{AccountScope, NewToken, Store, StoreError, connection::Dialect, migrations};

/// Set for the second run of all tests: a PostgreSQL server in which each test makes a database of its own.
const SERVER: &str = "MBL_STORE_TEST_SERVER";

/// A database of one test.
pub(crate) struct Database {
    pub(crate) store: Store,
    url: String,
    /// Goes away with the database in it.
    folder: Option<tempfile::TempDir>,
}

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

impl Database {
    pub(crate) async fn new() -> Self {
        if let Some(server) = std::env::var_os(SERVER) {
            let url = new_database(server.to_str().unwrap()).await;
            let store = Store::open(&url, Arc::new(()), NOW).await.unwrap();
            return Self { store, url, folder: None };
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_file(&folder.path().join("a ?#% b.db"), Arc::new(()), NOW).await.unwrap();
        Self { store, url: String::new(), folder: Some(folder) }
    }

    /// The scope of an account that exists.
    pub(crate) async fn account(&self, name: &str) -> AccountScope {
        let name = AccountName::new(name).unwrap();
        self.store.ensure_account(&name, "", NOW).await.unwrap();
        self.store.account(&name)
    }

    /// Closes and opens again, as after a crash of the service.
    pub(crate) async fn reopen(self) -> Self {
        let Self { store, url, folder } = self;
        store.close().await;
        let store = match &folder {
            Some(folder) => Store::open_file(&folder.path().join("a ?#% b.db"), Arc::new(()), NOW).await.unwrap(),
            None => Store::open(&url, Arc::new(()), NOW).await.unwrap(),
        };
        Self { store, url, folder }
    }
}

/// So many databases this process has made.
static MADE: AtomicU64 = AtomicU64::new(0);

async fn new_database(server: &str) -> String {
    sqlx::any::install_default_drivers();
    let name = format!("test_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let pool = sqlx::AnyPool::connect(&format!("{server}&dbname=postgres")).await.unwrap();
    pool.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    pool.close().await;
    format!("{server}&dbname={name}")
}

/// Runs every test of this crate once more, each in a database of the server.
#[test]
fn every_claim_about_the_store_holds_on_postgresql_too() {
    if std::env::var_os(SERVER).is_some() {
        return;
    }
    let server = Server::start();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--skip", "postgresql", "--skip", "sqlite", "--test-threads", "4"]).env(SERVER, server.url());
    // Under nextest a test sees variables that would make the second run list tests instead of running them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NEXTEST")) {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("events_are_numbered_without_gaps_in_each_account ... ok"), "the tests ran: {said}");
    assert!(Path::new(&server.folder.path().join("data/PG_VERSION")).exists());
}

/// A released migration never changes: its digest stands here for ever.
const DIGESTS: &[(i64, &str)] = &[
    (1, "sha256:3585cffe8091e48044256a59c9082caac6cedd52284cae6b07cc3c056ab3642e"),
    (2, "sha256:c0e9d47f421d7056eee44fce9d58d769491188f39d3caafb08aa0b3d2a9fe0eb"),
    (3, "sha256:8fdb60c0a90a63111c1a8f191f0929e24f2eea4d1a5b2baedeffa01d5f36d452"),
    (4, "sha256:b2c3475a9bf202de6eb726f9e7cc2e9a136a50c353e1b45aadd445c554d9ac6c"),
    (5, "sha256:b90616fa65981deedbd26d6e9e062435a4c1b5c251e2c8c8b8cc4a3818438d93"),
    (6, "sha256:fb047b513443ce97c8e66e3ad2274b80eb344e97a770b6deeb39aa2d31a50c88"),
    (7, "sha256:acc4d82ef2087566b0f7b473d868199c59a87b886118201e9fce6f2274a71a81"),
    (8, "sha256:81132f70560f4a2f81c29d354a27797ba0ec5d2bd49ea73b9697563dc1e3e1d5"),
    (9, "sha256:7de27c35055bdfbe2d69b01ac07026cbd4aa7b77c64069f57ebd1aebe8fffa92"),
    (10, "sha256:0c617a78d496959dc958befc3da187d6b9eebcf4f3b30f0f980b4627fc5d3f17"),
    (12, "sha256:0277edf2e79b42cc55c5dccd365b9cb14f22281ed497075a76c0484d0c73cb6e"),
    (13, "sha256:7a8561a36c8c46170914cd81c01d041238a21c24cd86a02bc64e720f161d25fe"),
    (14, "sha256:72e9a33e7e63639e646a4e73257521baa5a1fbf85e62bc9826250aea3ae450d3"),
    (15, "sha256:ad8a2ebfdc73cde7a7d9641ca0ac96d2075c5bf2280040759083ff87e022166e"),
    (17, "sha256:eb35f0d8e8f546f195c4f25424bfc4b7ef7c43ba9c94929e3fbbca4bbac1704e"),
    (18, "sha256:ac08ee42e155ef96e93e7e65bfe41807de8fdc1606f5efb8510e6521212a625a"),
    (19, "sha256:a97038fc9179e83200aaac171524ca43c22789ed5677b5a63461706689770ff5"),
    (20, "sha256:def60b0117dceaad6b702eef785ee7de37ffb23df08656dd00c09bd82f7a8cad"),
    (21, "sha256:df296756e5cec8ced4d733fb0c38ed851f647de32989bdabfb9887654f00f41f"),
    (22, "sha256:ae73b1a27e973202c6f2978303257ca2fefe5d9ea4ba410973dd27a07bedec4f"),
];

#[test]
fn no_released_migration_has_changed() {
    assert_eq!(DIGESTS.len(), migrations::ALL.len(), "each migration has a line here");
    for (number, digest) in DIGESTS {
        let migration = migrations::ALL.iter().find(|m| m.number == *number).unwrap();
        assert_eq!(migrations::digest_of(migration), *digest, "migration {number}");
    }
}

#[tokio::test]
async fn each_migration_applied_twice_does_no_harm() {
    let db = Database::new().await;
    db.account("acme").await;
    for migration in migrations::ALL {
        let mut tx = db.store.write().await.unwrap();
        migrations::run(&mut tx, db.store.dialect(), migration).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(db.account("acme").await.account_row().await.unwrap().created, NOW);
    db.reopen().await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let db = Database::new().await;
    let mut tx = db.store.write().await.unwrap();
    sqlx::query("INSERT INTO migrations (number, digest, applied) VALUES (999, '', 0)")
        .execute(tx.sql())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let refused = migrations::apply(&db.store, NOW).await;
    assert!(matches!(refused, Err(StoreError::TooNew { found: 999, .. })), "{refused:?}");
}

#[tokio::test]
async fn sqlite_keeps_every_commit_and_every_reference() {
    let db = Database::new().await;
    let mut tx = db.store.write().await.unwrap();
    for (pragma, wanted) in [("synchronous", 2), ("foreign_keys", 1)] {
        let sql = sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"));
        let row = sqlx::query(sql).fetch_one(tx.sql()).await.unwrap();
        assert_eq!(row.get::<i64, _>(0), wanted, "{pragma}");
    }
    let row = sqlx::query("PRAGMA journal_mode").fetch_one(tx.sql()).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "wal");
}

#[tokio::test]
async fn a_server_ends_a_transaction_that_nobody_goes_on_with_and_nobody_waits_long_for_a_turn() {
    let db = Database::new().await;
    if db.store.dialect() == Dialect::Sqlite {
        return;
    }
    let mut tx = db.store.write().await.unwrap();
    for (setting, wanted) in [("idle_in_transaction_session_timeout", "1min"), ("lock_timeout", "30s")] {
        let sql = sqlx::AssertSqlSafe(format!("SHOW {setting}"));
        let row = sqlx::query(sql).fetch_one(tx.sql()).await.unwrap();
        assert_eq!(row.get::<String, _>(0), wanted, "{setting}");
    }
}

#[tokio::test]
async fn the_store_is_busy_as_long_as_a_transaction_is_open() {
    let db = Database::new().await;
    let rests = async || {
        let rest = async {
            while db.store.is_busy() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), rest).await.unwrap();
    };
    rests().await;
    let tx = db.store.write().await.unwrap();
    assert!(db.store.is_busy());
    drop(tx);
    rests().await;
}

#[tokio::test]
async fn events_are_numbered_without_gaps_in_each_account() {
    let db = Database::new().await;
    let (one, two) = (db.account("one").await, db.account("two").await);
    for n in 0..3 {
        let token = NewToken {
            id: format!("t{n}"),
            name: "ci".into(),
            hash: format!("{n}"),
            scopes: "read".into(),
            expires: None,
            is_first: false,
            principal: None,
        };
        one.create_token(&token, None, NOW).await.unwrap();
    }
    let ids: Vec<u64> = one.events_after(0, 10).await.unwrap().iter().map(|e| e.id).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(two.events_after(0, 10).await.unwrap().len(), 1);
}

fn token(n: u32, is_first: bool) -> NewToken {
    NewToken {
        id: format!("t{n}"),
        name: "ci".into(),
        hash: format!("hash {n}"),
        scopes: "admin read".into(),
        expires: None,
        is_first,
        principal: None,
    }
}

#[tokio::test]
async fn the_first_use_of_another_token_revokes_the_first_token_of_that_account_alone() {
    let db = Database::new().await;
    let (one, two) = (db.account("one").await, db.account("two").await);
    one.create_token(&token(1, true), None, NOW).await.unwrap();
    two.create_token(&token(2, true), None, NOW).await.unwrap();
    let used = one.create_token(&token(3, false), None, NOW).await.unwrap();
    assert!(one.has_first_token().await.unwrap());
    assert!(one.note_token_used(&used, NOW).await.unwrap());
    assert!(!one.has_first_token().await.unwrap() && two.has_first_token().await.unwrap());
    let used = one.token("t3").await.unwrap();
    assert!(!one.note_token_used(&used, NOW).await.unwrap(), "once a minute is enough");
    one.revoke_token("t3", NOW).await.unwrap();
    assert!(!one.has_admin_token(NOW).await.unwrap());
}

#[tokio::test]
async fn a_use_that_nobody_waited_for_is_noted_with_all_that_follows_from_it_the_next_time() {
    let db = Database::new().await;
    let one = db.account("one").await;
    one.create_token(&token(1, true), None, NOW).await.unwrap();
    let used = one.create_token(&token(2, false), None, NOW).await.unwrap();
    let other = db.store.write().await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), one.note_token_used(&used, NOW)).await;
    assert!(early.is_err(), "somebody else writes: {early:?}");
    drop(other);
    let used = one.token("t2").await.unwrap();
    assert_eq!(used.last_used, None);
    assert!(one.has_first_token().await.unwrap());
    assert!(one.note_token_used(&used, NOW).await.unwrap());
    assert!(!one.has_first_token().await.unwrap());
}

#[tokio::test]
async fn a_scope_is_a_whole_word() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let odd = NewToken { scopes: "administrate readmin".into(), ..token(1, false) };
    one.create_token(&odd, None, NOW).await.unwrap();
    assert!(!one.has_admin_token(NOW).await.unwrap());
}

#[tokio::test]
async fn a_transaction_that_was_not_committed_leaves_nothing_behind() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let mut tx = db.store.write().await.unwrap();
    let draft = crate::EventDraft { kind: "x", subject: "y".into(), data: serde_json::json!({}) };
    crate::events::append(&mut tx, &one, NOW, draft).await.unwrap();
    drop(tx);
    assert_eq!(one.last_event().await.unwrap(), 1);
    let db = db.reopen().await;
    assert_eq!(db.account("one").await.events_after(0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn writers_that_run_at_once_lose_no_event() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let writers: Vec<_> = (0..20_u32)
        .map(|n| {
            let one = one.clone();
            tokio::spawn(async move { one.create_token(&token(n, false), None, NOW).await.map(drop) })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let ids: Vec<u64> = one.events_after(0, 100).await.unwrap().iter().map(|e| e.id).collect();
    assert_eq!(ids, (1..=21).collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_artifact_keeps_the_size_it_was_announced_with_and_the_account_its_limit() {
    let db = Database::new().await;
    let (one, two) = (db.account("one").await, db.account("two").await);
    let digest = protocol_types::Digest::of(b"a");
    one.begin_artifact(&digest, 60, 100, NOW).await.unwrap();
    assert!(matches!(one.begin_artifact(&digest, 61, 100, NOW).await, Err(StoreError::WrongState { .. })));
    let other = protocol_types::Digest::of(b"b");
    let refused = one.begin_artifact(&other, 41, 100, NOW).await;
    assert!(matches!(refused, Err(StoreError::OverQuota { needed: 101, limit: 100 })), "{refused:?}");
    one.begin_artifact(&other, 40, 100, NOW).await.unwrap();
    two.begin_artifact(&digest, 60, 100, NOW).await.unwrap();
    one.artifact_received(&digest, 7).await.unwrap();
    assert_eq!(two.artifact(&digest).await.unwrap().received, 0);
    one.artifact_complete(&digest, NOW).await.unwrap();
    one.artifact_received(&digest, 3).await.unwrap();
    let whole = one.artifact(&digest).await.unwrap();
    assert!(whole.complete && whole.received == 60, "what is whole stays whole");
}

#[tokio::test]
async fn the_size_of_an_artifact_can_be_corrected_until_all_of_it_has_arrived() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let (digest, other) = (protocol_types::Digest::of(b"a"), protocol_types::Digest::of(b"b"));
    one.begin_artifact(&digest, 60, 100, NOW).await.unwrap();
    one.begin_artifact(&other, 30, 100, NOW).await.unwrap();
    let refused = one.announce_again(&digest, 71, 100, NOW).await;
    assert!(matches!(refused, Err(StoreError::OverQuota { needed: 101, limit: 100 })), "{refused:?}");
    assert_eq!(one.announce_again(&digest, 70, 100, NOW).await.unwrap().size, 70);
    one.artifact_received(&digest, 7).await.unwrap();
    let refused = one.announce_again(&digest, 6, 100, NOW).await;
    assert!(matches!(refused, Err(StoreError::WrongState { .. })), "more has arrived: {refused:?}");
    assert_eq!(one.announce_again(&digest, 7, 100, NOW).await.unwrap().size, 7);
    one.artifact_complete(&digest, NOW).await.unwrap();
    let refused = one.announce_again(&digest, 8, 100, NOW).await;
    assert!(matches!(refused, Err(StoreError::WrongState { .. })), "it is whole: {refused:?}");
}

pub(crate) fn publication(made_from: Option<u64>, timestamp: u64) -> crate::Publication {
    let file = |role: &str, version: u64| crate::MetadataFile {
        name: if role == "timestamp" { "timestamp.json".into() } else { format!("{version}.{role}.json") },
        role: role.into(),
        version,
        bytes: format!("{role} {version}").into_bytes(),
    };
    crate::Publication {
        made_from,
        uploaded: vec![file("targets", timestamp)],
        online: [file("snapshot", timestamp), file("timestamp", timestamp)],
        state: crate::RepositoryRow {
            root_version: 1,
            targets_version: timestamp,
            snapshot_version: timestamp,
            timestamp_version: timestamp,
            timestamp_expires: NOW,
            published: NOW,
        },
        releases: None,
    }
}

#[tokio::test]
async fn of_two_publications_made_from_the_same_state_one_is_stored() {
    let db = Database::new().await;
    let one = db.account("one").await;
    one.publish(&publication(None, 5), NOW).await.unwrap();
    one.publish(&publication(Some(5), 6), NOW).await.unwrap();
    for late in [publication(Some(5), 7), publication(None, 7)] {
        let refused = one.publish(&late, NOW).await;
        assert!(matches!(refused, Err(StoreError::Stale { .. })), "{refused:?}");
    }
    assert_eq!(one.metadata_file("timestamp.json").await.unwrap().unwrap(), b"timestamp 6");
    assert_eq!(one.metadata_file("7.targets.json").await.unwrap(), None, "nothing of the late one is there");
    let mut newest: Vec<String> = one.newest_metadata().await.unwrap().into_iter().map(|(name, _)| name).collect();
    newest.sort();
    assert_eq!(newest, ["6.snapshot.json", "6.targets.json", "timestamp.json"]);
}

#[tokio::test]
async fn an_online_key_is_made_once() {
    let db = Database::new().await;
    let one = db.account("one").await;
    let role = crate::OnlineRole::Snapshot;
    assert_eq!(one.online_key(role, b"\x00first", NOW).await.unwrap(), b"\x00first");
    assert_eq!(one.online_key(role, b"second", NOW).await.unwrap(), b"\x00first");
    assert_eq!(db.account("two").await.stored_online_key(role).await.unwrap(), None);
}

/// An account with a published release and two connected devices.
pub(crate) async fn fleet(db: &Database) -> AccountScope {
    let one = db.account("one").await;
    let release = crate::ReleaseRow {
        version: "1.0.0".parse().unwrap(),
        path: "releases/1.0.0.json".parse().unwrap(),
        digest: protocol_types::Digest::of(b"release"),
        security_version: protocol_types::SecurityVersion(3),
        document: "{}".into(),
        listed: true,
        published: NOW,
    };
    let publication = crate::Publication { releases: Some(vec![release.clone()]), ..publication(None, 5) };
    one.publish(&publication, NOW).await.unwrap();
    assert_eq!(one.release(&release.version).await.unwrap(), release);
    let mut tx = db.store.write().await.unwrap();
    for endpoint in ["gate-1", "gate-2"] {
        sqlx::query("INSERT INTO devices (account, endpoint, connected, created) VALUES ('one', $1, 1, 0)")
            .bind(endpoint)
            .execute(tx.sql())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    one
}

fn wanted(audience: crate::Audience) -> crate::NewRollout {
    crate::NewRollout {
        name: "first".into(),
        subject: crate::Subject::Release("1.0.0".parse().unwrap()),
        audience,
        threshold: crate::Threshold::Percent(10),
        max_in_flight: Some(7),
        window: Some(crate::DailyWindow { from: 60, until: 120, zone: crate::Zone::Device }),
        consent: protocol_types::Consent::Operator,
        on_failure: protocol_types::OnFailure::Return,
        priority: 60,
        policy: crate::Policy {
            waves: vec![crate::Wave::Filter("tag = \"lab\"".parse().unwrap()), crate::Wave::Count(3)],
            success_percent: Some(90),
            rate: Some(crate::Rate { per_hour: 5, growth: None }),
            ..crate::Policy::default()
        },
    }
}

fn endpoint(name: &str) -> protocol_types::EndpointName {
    name.parse().unwrap()
}

/// Offers everything to every device that is not on its way.
fn offer_all(facts: &crate::RolloutFacts) -> crate::Decision {
    let fresh = facts.devices.iter().filter(|d| d.at.is_none_or(|(s, _)| s == protocol_types::DeviceState::Queued));
    let step = |d: &crate::DeviceFacts| crate::DeviceStep {
        endpoint: d.endpoint.clone(),
        to: protocol_types::DeviceState::Offered,
        waiting_for: None,
        reason: None,
        wish: crate::WishStep::Set,
        wave: 1,
        attempt: d.attempt,
        failed: d.failed,
        not_before: d.not_before,
        tally: crate::Tally::Leave,
    };
    crate::Decision { devices: fresh.map(step).collect(), ..crate::Decision::default() }
}

#[tokio::test]
async fn a_decision_is_carried_out_once_with_its_wishes_and_events() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let rollout = one.create_rollout(&wanted(crate::Audience::All), None, NOW).await.unwrap();
    assert_eq!(rollout.wanted, wanted(crate::Audience::All), "what was asked for reads back");
    assert_eq!(db.store.service_wide().rollouts_under_way().await.unwrap(), []);
    one.act_on_rollout(&rollout.id, RolloutAction::Start, (Some(1), "t1"), NOW).await.unwrap();
    let under_way = db.store.service_wide().rollouts_under_way().await.unwrap();
    assert_eq!(under_way, [(one.name().clone(), rollout.id.clone())]);

    assert_eq!(one.reconcile_rollout(&rollout.id, offer_all, NOW).await.unwrap(), 2);
    let events = one.last_event().await.unwrap();
    assert_eq!(one.reconcile_rollout(&rollout.id, offer_all, NOW).await.unwrap(), 0, "nothing is done twice");
    assert_eq!(one.last_event().await.unwrap(), events);
    let wish = one.desired_release(&endpoint("gate-1")).await.unwrap().unwrap();
    assert_eq!((wish.generation, wish.acknowledged), (1, 0));
    assert_eq!(wish.release.unwrap().rollout, rollout.id);
    one.acknowledge_desired(&endpoint("gate-1"), 9).await.unwrap();
    one.acknowledge_desired(&endpoint("gate-1"), 1).await.unwrap();
    assert!(one.desired_release(&endpoint("gate-1")).await.unwrap().unwrap().is_acknowledged());
    let counts = one.rollout_counts(&rollout.id).await.unwrap();
    assert_eq!((counts.total(), counts.of(&[protocol_types::DeviceState::Offered])), (2, 2));
    let offered = Some(protocol_types::DeviceState::Offered);
    assert_eq!(one.rollout_devices_after(&rollout.id, offered, "gate-1", 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn consent_is_kept_for_the_devices_that_it_was_given_for() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let rollout = one.create_rollout(&wanted(crate::Audience::All), None, NOW).await.unwrap();
    one.act_on_rollout(&rollout.id, RolloutAction::Start, (None, "t1"), NOW).await.unwrap();
    let wait = |facts: &crate::RolloutFacts| {
        let step = |d: &crate::DeviceFacts| crate::DeviceStep {
            endpoint: d.endpoint.clone(),
            to: protocol_types::DeviceState::Waiting,
            waiting_for: Some(protocol_types::WaitingFor::Consent),
            reason: None,
            wish: crate::WishStep::Leave,
            wave: 0,
            attempt: 1,
            failed: 0,
            not_before: None,
            tally: crate::Tally::Leave,
        };
        let fresh = facts.devices.iter().filter(|d| d.at.is_none());
        crate::Decision { devices: fresh.map(step).collect(), ..crate::Decision::default() }
    };
    one.reconcile_rollout(&rollout.id, wait, NOW).await.unwrap();
    let agreed = async || {
        let mut names = Vec::new();
        let mut connection = db.store.readers().acquire().await.unwrap();
        let sql = "SELECT endpoint FROM rollout_devices WHERE consented IS NOT NULL ORDER BY endpoint";
        for row in sqlx::query(sql).fetch_all(&mut *connection).await.unwrap() {
            names.push(row.get::<String, _>("endpoint"));
        }
        names
    };
    let named = [endpoint("gate-2"), endpoint("a-stranger")];
    let refused = one.consent_to_rollout(&rollout.id, Some(&named), NOW).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    assert!(agreed().await.is_empty(), "a refusal has no effect on the others");
    one.consent_to_rollout(&rollout.id, Some(&named[..1]), NOW).await.unwrap();
    assert_eq!(agreed().await, ["gate-2"]);
    one.consent_to_rollout(&rollout.id, None, NOW).await.unwrap();
    assert_eq!(agreed().await, ["gate-1", "gate-2"]);

    let automatic = crate::NewRollout { consent: protocol_types::Consent::Automatic, ..wanted(crate::Audience::All) };
    let automatic = one.create_rollout(&automatic, None, NOW).await.unwrap();
    one.act_on_rollout(&rollout.id, RolloutAction::Abort, (None, "t1"), NOW).await.unwrap();
    for id in [automatic.id, rollout.id] {
        let refused = one.consent_to_rollout(&id, None, NOW).await;
        assert!(matches!(refused, Err(StoreError::WrongState { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn the_facts_of_a_device_are_what_was_recorded() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let report = crate::DeviceReport {
        phase: protocol_types::Phase::RolledBack,
        reason: Some(protocol_types::Reason::new(protocol_types::ReasonCode::BootFailed, "no luck")),
        progress: Some(100),
        rollout: Some("r1".parse().unwrap()),
        attempt: 2,
        digest: Some(protocol_types::Digest::of(b"release")),
        running_version: Some("0.9.0".parse().unwrap()),
        running_digest: None,
        slot: Some(protocol_types::Slot::B),
        floor: protocol_types::SecurityVersion(2),
    };
    for _ in 0..2 {
        one.record_report(&endpoint("gate-2"), &report, NOW).await.unwrap();
    }
    assert_eq!(one.device_report(&endpoint("gate-2")).await.unwrap().unwrap(), (report.clone(), NOW));
    let first = crate::GroupChange {
        title: Some("Doors".to_owned()),
        add: vec![endpoint("gate-2"), endpoint("not-there-yet")],
        ..crate::GroupChange::default()
    };
    one.create_group(&"doors".parse().unwrap(), &first, None, NOW).await.unwrap();
    let audience = crate::Audience::Group("doors".parse().unwrap());
    let rollout = one.create_rollout(&wanted(audience), None, NOW).await.unwrap();
    one.act_on_rollout(&rollout.id, RolloutAction::Start, (None, "t1"), NOW).await.unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let look = |facts: &crate::RolloutFacts| {
        *seen.lock().unwrap() = facts.devices.clone();
        crate::Decision::default()
    };
    one.reconcile_rollout(&rollout.id, look, NOW).await.unwrap();
    let facts = seen.lock().unwrap().clone();
    let expected = crate::DeviceFacts {
        endpoint: endpoint("gate-2"),
        at: None,
        present: Some((true, protocol_types::Standing::Active)),
        last_seen: None,
        meant: true,
        wish: None,
        said: Some(report),
        wave: None,
        matches: Vec::new(),
        attempt: 1,
        failed: 0,
        not_before: None,
        outranked_by: None,
        consented: false,
        failures: 0,
        zone: None,
    };
    assert_eq!(facts, [expected]);
}

#[tokio::test]
async fn a_rollout_that_was_started_later_is_newer_for_its_devices() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let first = one.create_rollout(&wanted(crate::Audience::All), None, NOW).await.unwrap();
    let audience = crate::Audience::Devices(vec![endpoint("gate-1")]);
    let second = one.create_rollout(&wanted(audience), None, NOW).await.unwrap();
    // The one with the higher number is started first.
    for id in [&second.id, &first.id] {
        one.act_on_rollout(id, RolloutAction::Start, (None, "t1"), NOW).await.unwrap();
        one.reconcile_rollout(id, offer_all, NOW).await.unwrap();
    }
    let newer = std::sync::Mutex::new(Vec::new());
    for id in [&second.id, &first.id] {
        let look = |facts: &crate::RolloutFacts| {
            newer
                .lock()
                .unwrap()
                .extend(facts.devices.iter().map(|d| (d.endpoint.to_string(), d.outranked_by.is_some())));
            crate::Decision::default()
        };
        one.reconcile_rollout(id, look, NOW).await.unwrap();
    }
    let expected = [("gate-1".to_owned(), true), ("gate-1".to_owned(), false), ("gate-2".to_owned(), false)];
    assert_eq!(*newer.lock().unwrap(), expected);
    let wish = one.desired_release(&endpoint("gate-1")).await.unwrap().unwrap();
    assert_eq!(wish.release.unwrap().rollout, first.id);
}

#[tokio::test]
async fn a_rollout_for_a_device_that_is_not_there_is_not_made_and_an_action_out_of_turn_refused() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let audience = crate::Audience::Devices(vec![endpoint("gate-1"), endpoint("nobody")]);
    let refused = one.create_rollout(&wanted(audience), None, NOW).await;
    assert!(matches!(refused, Err(StoreError::NotFound { kind: "device", .. })), "{refused:?}");
    assert_eq!(one.rollouts_after(0, 9).await.unwrap(), []);
    let id = one.create_rollout(&wanted(crate::Audience::All), None, NOW).await.unwrap().id;
    assert_eq!(id.as_str(), "r1", "the number of the refused one was given back");
    let refused = one.act_on_rollout(&id, RolloutAction::Resume, (None, "t1"), NOW).await;
    assert!(matches!(refused, Err(StoreError::WrongState { .. })), "{refused:?}");
    one.act_on_rollout(&id, RolloutAction::Abort, (None, "t1"), NOW).await.unwrap();
    let twice = one.act_on_rollout(&id, RolloutAction::Abort, (None, "t1"), NOW).await.unwrap();
    assert_eq!(twice.revision, 2, "asking again changes nothing");
    let stale = one.act_on_rollout(&id, RolloutAction::Abort, (Some(1), "t1"), NOW).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })), "{stale:?}");
}

#[tokio::test]
async fn a_release_is_immutable_and_one_that_is_listed_no_more_stays_known() {
    let db = Database::new().await;
    let one = fleet(&db).await;
    let mut release = one.release(&"1.0.0".parse().unwrap()).await.unwrap();
    release.digest = protocol_types::Digest::of(b"another");
    let other = crate::Publication { releases: Some(vec![release]), ..publication(Some(5), 6) };
    let refused = one.publish(&other, NOW).await;
    assert!(matches!(refused, Err(StoreError::Exists { kind: "release", .. })), "{refused:?}");
    assert_eq!(one.repository().await.unwrap().unwrap().timestamp_version, 5);
    one.publish(&crate::Publication { releases: Some(Vec::new()), ..publication(Some(5), 6) }, NOW).await.unwrap();
    assert!(!one.release(&"1.0.0".parse().unwrap()).await.unwrap().listed);
    let due = db.store.service_wide().timestamps_ending(UnixSeconds(NOW.0 + 1)).await.unwrap();
    assert_eq!(due, [one.name().clone()]);
}

/// `.cargo/config.toml` says why.
#[tokio::test]
async fn connections_to_sqlite_do_not_share_one_pool_of_pages() {
    let db = Database::new().await;
    let shared = "SELECT COUNT(*) AS n FROM pragma_compile_options WHERE compile_options = 'ENABLE_MEMORY_MANAGEMENT'";
    let row = sqlx::query(shared).fetch_one(db.store.readers()).await.unwrap();
    assert_eq!(row.get::<i64, _>("n"), 0);
}
