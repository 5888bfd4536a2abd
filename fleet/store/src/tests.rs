//! Opens databases for the tests of every table: SQLite in a folder of its own.

use std::sync::Arc;

use protocol_types::{AccountName, UnixSeconds};
use sqlx::Row;

use crate::{AccountScope, NewToken, Store, StoreError, migrations};

/// A database that goes away with the folder.
pub(crate) struct Database {
    pub(crate) store: Store,
    folder: tempfile::TempDir,
}

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

impl Database {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_file(&folder.path().join("a ?#% b.db"), Arc::new(()), NOW).await.unwrap();
        Self { store, folder }
    }

    /// The scope of an account that exists.
    pub(crate) async fn account(&self, name: &str) -> AccountScope {
        let name = AccountName::new(name).unwrap();
        self.store.ensure_account(&name, "", NOW).await.unwrap();
        self.store.account(&name)
    }

    /// Closes and opens again, as after a crash of the service.
    pub(crate) async fn reopen(self) -> Self {
        let Self { store, folder } = self;
        store.close().await;
        let store = Store::open_file(&folder.path().join("a ?#% b.db"), Arc::new(()), NOW).await.unwrap();
        Self { store, folder }
    }
}

/// A released migration never changes: its digest stands here for ever.
const DIGESTS: &[(i64, &str)] = &[];

#[test]
fn no_released_migration_has_changed() {
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
        };
        one.create_token(&token, None, NOW).await.unwrap();
    }
    let ids: Vec<u64> = one.events_after(0, 10).await.unwrap().iter().map(|e| e.id).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(two.events_after(0, 10).await.unwrap().len(), 1);
}
