//! Brings a database to the newest form, forward only. Never changes what a released migration said.

use protocol_types::{Digest, UnixSeconds};
use sqlx::{AssertSqlSafe, Row};

use crate::{Store, StoreError, connection::Dialect, error::cannot, filter::version_key, numbers::to_sql};

/// One step from an older form to a newer one.
pub(crate) struct Migration {
    pub(crate) number: i64,
    pub(crate) sql: &'static str,
}

/// All steps, in order. A file that was released never changes; a test holds the digests.
pub(crate) const ALL: &[Migration] = &[
    Migration { number: 1, sql: include_str!("../migrations/0001_foundation.sql") },
    Migration { number: 2, sql: include_str!("../migrations/0002_devices.sql") },
    Migration { number: 3, sql: include_str!("../migrations/0003_updates.sql") },
    Migration { number: 4, sql: include_str!("../migrations/0004_consent.sql") },
    Migration { number: 5, sql: include_str!("../migrations/0005_factory_reset.sql") },
    Migration { number: 6, sql: include_str!("../migrations/0006_directory.sql") },
    Migration { number: 7, sql: include_str!("../migrations/0007_recovery.sql") },
    Migration { number: 8, sql: include_str!("../migrations/0008_access.sql") },
    Migration { number: 9, sql: include_str!("../migrations/0009_operations.sql") },
    Migration { number: 10, sql: include_str!("../migrations/0010_rollouts.sql") },
    Migration { number: 12, sql: include_str!("../migrations/0012_presence.sql") },
    Migration { number: 13, sql: include_str!("../migrations/0013_users.sql") },
    Migration { number: 14, sql: include_str!("../migrations/0014_configuration.sql") },
    Migration { number: 15, sql: include_str!("../migrations/0015_monitoring.sql") },
    Migration { number: 17, sql: include_str!("../migrations/0017_metrics.sql") },
    Migration { number: 18, sql: include_str!("../migrations/0018_sign_in.sql") },
    Migration { number: 19, sql: include_str!("../migrations/0019_staged_configuration.sql") },
    Migration { number: 20, sql: include_str!("../migrations/0020_traces.sql") },
    Migration { number: 21, sql: include_str!("../migrations/0021_commands.sql") },
    Migration { number: 22, sql: include_str!("../migrations/0022_counting.sql") },
];

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS migrations (
    number BIGINT NOT NULL PRIMARY KEY, digest TEXT NOT NULL, applied BIGINT NOT NULL)";

/// Applies what the database has not seen yet, each step in its own transaction together with its line in the ledger.
pub(crate) async fn apply(store: &Store, now: UnixSeconds) -> Result<(), StoreError> {
    let doing = "migrate";
    let mut tx = store.write().await?;
    sqlx::query(LEDGER).execute(tx.sql()).await.map_err(cannot(doing))?;
    let rows = sqlx::query("SELECT number, digest FROM migrations ORDER BY number")
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(doing))?;
    tx.commit().await?;
    let known = ALL.last().map_or(0, |m| m.number);
    let mut applied = Vec::new();
    for row in rows {
        let number: i64 = row.try_get("number").map_err(cannot(doing))?;
        let digest: String = row.try_get("digest").map_err(cannot(doing))?;
        let Some(migration) = ALL.iter().find(|m| m.number == number) else {
            return Err(StoreError::TooNew { found: number, known });
        };
        if digest != digest_of(migration) {
            return Err(StoreError::MigrationChanged { number });
        }
        applied.push(number);
    }
    for migration in ALL.iter().filter(|m| !applied.contains(&m.number)) {
        let mut tx = store.write().await?;
        run(&mut tx, store.dialect(), migration).await?;
        if migration.number == VERSION_KEYS {
            fill_version_keys(&mut tx).await?;
        }
        sqlx::query("INSERT INTO migrations (number, digest, applied) VALUES ($1, $2, $3)")
            .bind(migration.number)
            .bind(digest_of(migration))
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        tx.commit().await?;
        tracing::info!(number = migration.number, "database migrated");
    }
    Ok(())
}

/// The step that put keys beside versions.
const VERSION_KEYS: i64 = 6;

/// Writes the keys of the versions that were there before: SQL cannot make them.
async fn fill_version_keys(tx: &mut crate::transaction::Transaction) -> Result<(), StoreError> {
    let doing = "migrate";
    for (table, column) in [("device_components", "version"), ("device_reports", "running_version")] {
        let sql = format!("SELECT DISTINCT {column} AS version FROM {table} WHERE {column} IS NOT NULL");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        for row in rows {
            let version: String = row.try_get("version").map_err(cannot(doing))?;
            let sql = format!("UPDATE {table} SET {column}_key = $2 WHERE {column} = $1");
            sqlx::query(AssertSqlSafe(sql))
                .bind(version.as_str())
                .bind(version_key(&version))
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
        }
    }
    Ok(())
}

/// Runs the statements of one step.
pub(crate) async fn run(
    tx: &mut crate::transaction::Transaction,
    dialect: Dialect,
    migration: &Migration,
) -> Result<(), StoreError> {
    for statement in migration.sql.split_inclusive(";\n").filter(|text| !text.trim().is_empty()) {
        if dialect == Dialect::Sqlite
            && let Some((table, column)) = added_column(statement)
            && has_column(tx, table, column).await?
        {
            continue;
        }
        let sql = in_dialect(statement, dialect);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(tx.sql()).await.map(drop).map_err(cannot("migrate"))?;
    }
    Ok(())
}

const ADD_COLUMN: &str = " ADD COLUMN IF NOT EXISTS ";

/// What `ALTER TABLE table ADD COLUMN IF NOT EXISTS column` adds where; nothing for any other statement.
fn added_column(statement: &str) -> Option<(&str, &str)> {
    let (table, column) = statement.split_once(ADD_COLUMN)?;
    Some((table.rsplit_once("ALTER TABLE ")?.1.trim(), column.split_whitespace().next()?))
}

async fn has_column(tx: &mut crate::transaction::Transaction, table: &str, column: &str) -> Result<bool, StoreError> {
    sqlx::query("SELECT name FROM pragma_table_info($1) WHERE name = $2")
        .bind(table)
        .bind(column)
        .fetch_optional(tx.sql())
        .await
        .map(|row| row.is_some())
        .map_err(cannot("migrate"))
}

/// The words in which the two databases differ: a column of bytes, a column that may be there already, and a table that is its own
/// index.
fn in_dialect(sql: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => sql.replace(ADD_COLUMN, " ADD COLUMN "),
        Dialect::Postgres => sql.replace(" BLOB ", " BYTEA ").replace(" WITHOUT ROWID", ""),
    }
}

/// What the ledger remembers of a step.
pub(crate) fn digest_of(migration: &Migration) -> String {
    Digest::of(migration.sql.as_bytes()).to_string()
}
