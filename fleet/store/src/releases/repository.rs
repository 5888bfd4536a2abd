//! The signed metadata of an account as devices fetch it, the keys that keep it fresh, and the releases it lists.

use protocol_types::{AccountName, Digest, ReleaseVersion, SecurityVersion, TargetPath, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Change, EventDraft, ServiceWide, StoreError,
    error::cannot,
    events,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// A role that the service signs itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnlineRole {
    /// Which versions of all files belong together.
    Snapshot,
    /// Which snapshot is the newest.
    Timestamp,
}

impl OnlineRole {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }
}

/// One file of signed metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataFile {
    /// Its name, as devices ask for it.
    pub name: String,
    /// Its role, as in `targets` or `app-hello`.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// How far the repository of an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepositoryRow {
    /// Version of the newest root.
    pub root_version: u64,
    /// Version of the newest targets.
    pub targets_version: u64,
    /// Version of the newest snapshot.
    pub snapshot_version: u64,
    /// Version of the newest timestamp.
    pub timestamp_version: u64,
    /// When the newest timestamp ends.
    pub timestamp_expires: UnixSeconds,
    /// When somebody last published.
    pub published: UnixSeconds,
}

/// A release that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRow {
    /// Its version.
    pub version: ReleaseVersion,
    /// Its target path.
    pub path: TargetPath,
    /// Digest of its document.
    pub digest: Digest,
    /// Devices whose floor is higher refuse it.
    pub security_version: SecurityVersion,
    /// The document itself, as JSON text.
    pub document: String,
    /// Whether the current targets list it.
    pub listed: bool,
    /// When it was first published.
    pub published: UnixSeconds,
}

/// A new state of a repository: files to add, and what it then lists.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Timestamp version of the state that this one was made from; `None` for the first.
    pub made_from: Option<u64>,
    /// Files that were uploaded and are new.
    pub uploaded: Vec<MetadataFile>,
    /// The snapshot and the timestamp.
    pub online: [MetadataFile; 2],
    /// How far the repository is then; `published` counts only if somebody uploaded something.
    pub state: RepositoryRow,
    /// Everything that the targets list; `None` if that did not change.
    pub releases: Option<Vec<ReleaseRow>>,
}

/// Snapshots of earlier states are kept this many seconds, for devices in the middle of a load.
const KEEP_SNAPSHOTS: u64 = 24 * 60 * 60;

fn read_release(row: &AnyRow) -> Result<ReleaseRow, StoreError> {
    let doing = "read a release";
    let damaged = |column| StoreError::Damaged { table: "releases", column };
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    Ok(ReleaseRow {
        version: formed(row, doing, ("releases", "version"))?,
        path: formed(row, doing, ("releases", "path"))?,
        digest: formed(row, doing, ("releases", "digest"))?,
        security_version: u32::try_from(number("security_version")?)
            .map(SecurityVersion)
            .map_err(|_| damaged("security_version"))?,
        document: row.try_get("document").map_err(cannot(doing))?,
        listed: number("listed")? != 0,
        published: time(number("published")?),
    })
}

impl AccountScope {
    /// The private key of an online role; `made` becomes it if the account has none yet. PKCS#8, DER.
    pub async fn online_key(&self, role: OnlineRole, made: &[u8], now: UnixSeconds) -> Result<Vec<u8>, StoreError> {
        let doing = "read an online key";
        if let Some(key) = self.stored_online_key(role).await? {
            return Ok(key);
        }
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO online_keys (account, role, pkcs8, created) VALUES ($1, $2, $3, $4)
             ON CONFLICT (account, role) DO NOTHING",
        )
        .bind(self.id())
        .bind(role.as_str())
        .bind(made)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        tx.commit().await?;
        let missing = StoreError::NotFound { kind: "online key", id: role.as_str().to_owned() };
        self.stored_online_key(role).await?.ok_or(missing)
    }

    /// The private key of an online role, if the account has one. PKCS#8, DER.
    pub async fn stored_online_key(&self, role: OnlineRole) -> Result<Option<Vec<u8>>, StoreError> {
        let doing = "read an online key";
        let row = sqlx::query("SELECT pkcs8 FROM online_keys WHERE account = $1 AND role = $2")
            .bind(self.id())
            .bind(role.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        row.map(|row| row.try_get("pkcs8").map_err(cannot(doing))).transpose()
    }

    /// A metadata file by the name that devices ask for.
    pub async fn metadata_file(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let doing = "read a metadata file";
        let row = sqlx::query("SELECT bytes FROM metadata_files WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(name)
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        row.map(|row| row.try_get("bytes").map_err(cannot(doing))).transpose()
    }

    /// The newest file of every role, as name and bytes.
    pub async fn newest_metadata(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let doing = "read the newest metadata";
        let rows = sqlx::query(
            "SELECT f.name, f.bytes FROM metadata_files f WHERE f.account = $1 AND f.version =
                 (SELECT MAX(g.version) FROM metadata_files g WHERE g.account = f.account AND g.role = f.role)",
        )
        .bind(self.id())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let name = row.try_get("name").map_err(cannot(doing))?;
                Ok((name, row.try_get("bytes").map_err(cannot(doing))?))
            })
            .collect()
    }

    /// How far the repository is; `None` before the first publication.
    pub async fn repository(&self) -> Result<Option<RepositoryRow>, StoreError> {
        let doing = "read the state of a repository";
        let row = sqlx::query(
            "SELECT root_version, targets_version, snapshot_version, timestamp_version, timestamp_expires, published
             FROM repositories WHERE account = $1",
        )
        .bind(self.id())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(None) };
        let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
        Ok(Some(RepositoryRow {
            root_version: from_sql(number("root_version")?),
            targets_version: from_sql(number("targets_version")?),
            snapshot_version: from_sql(number("snapshot_version")?),
            timestamp_version: from_sql(number("timestamp_version")?),
            timestamp_expires: time(number("timestamp_expires")?),
            published: time(number("published")?),
        }))
    }

    /// Puts a new state in place of the one it was made from: devices see all of it or nothing.
    pub async fn publish(&self, publication: &Publication, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.replace_state(&mut tx, publication).await?;
        for file in publication.uploaded.iter().chain(&publication.online) {
            self.put_file(&mut tx, file, now).await?;
        }
        sqlx::query(
            "DELETE FROM metadata_files WHERE account = $1 AND role = 'snapshot' AND version < $2 AND created < $3",
        )
        .bind(self.id())
        .bind(to_sql(publication.state.snapshot_version))
        .bind(to_sql(now.0.saturating_sub(KEEP_SNAPSHOTS)))
        .execute(tx.sql())
        .await
        .map_err(cannot("forget old snapshots"))?;
        if let Some(releases) = &publication.releases {
            self.list_releases(&mut tx, releases).await?;
            let data = json!({ "targets_version": publication.state.targets_version, "releases": releases.len() });
            let draft = EventDraft { kind: "repository.published", subject: "repository".to_owned(), data };
            events::append(&mut tx, self, now, draft).await?;
            tx.changed(Change::Rollouts(self.account.clone()));
        }
        tx.commit().await
    }

    async fn replace_state(&self, tx: &mut Transaction, publication: &Publication) -> Result<(), StoreError> {
        let state = &publication.state;
        let done = sqlx::query(
            "INSERT INTO repositories (account, root_version, targets_version, snapshot_version, timestamp_version,
                                       timestamp_expires, published)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (account) DO UPDATE SET root_version = excluded.root_version,
                 targets_version = excluded.targets_version, snapshot_version = excluded.snapshot_version,
                 timestamp_version = excluded.timestamp_version, timestamp_expires = excluded.timestamp_expires,
                 published = excluded.published
             WHERE repositories.timestamp_version = $8",
        )
        .bind(self.id())
        .bind(to_sql(state.root_version))
        .bind(to_sql(state.targets_version))
        .bind(to_sql(state.snapshot_version))
        .bind(to_sql(state.timestamp_version))
        .bind(to_sql(state.timestamp_expires.0))
        .bind(to_sql(state.published.0))
        .bind(publication.made_from.map_or(-1, to_sql))
        .execute(tx.sql())
        .await
        .map_err(cannot("publish metadata"))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Stale { kind: "repository", id: self.account.to_string(), now: 0 });
        }
        Ok(())
    }

    async fn put_file(&self, tx: &mut Transaction, file: &MetadataFile, now: UnixSeconds) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO metadata_files (account, name, role, version, bytes, created) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (account, name) DO UPDATE SET version = excluded.version, bytes = excluded.bytes,
                 created = excluded.created",
        )
        .bind(self.id())
        .bind(file.name.as_str())
        .bind(file.role.as_str())
        .bind(to_sql(file.version))
        .bind(file.bytes.as_slice())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map(drop)
        .map_err(cannot("store a metadata file"))
    }

    async fn list_releases(&self, tx: &mut Transaction, releases: &[ReleaseRow]) -> Result<(), StoreError> {
        let doing = "list releases";
        sqlx::query("UPDATE releases SET listed = 0 WHERE account = $1")
            .bind(self.id())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        for release in releases {
            // A release is immutable: under a version that is known only the same digest is listed again.
            let done = sqlx::query(
                "INSERT INTO releases (account, version, path, digest, security_version, document, listed, published)
                 VALUES ($1, $2, $3, $4, $5, $6, 1, $7)
                 ON CONFLICT (account, version) DO UPDATE SET listed = 1 WHERE releases.digest = excluded.digest",
            )
            .bind(self.id())
            .bind(release.version.to_string())
            .bind(release.path.as_str())
            .bind(release.digest.to_string())
            .bind(i64::from(release.security_version.0))
            .bind(release.document.as_str())
            .bind(to_sql(release.published.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
            if done.rows_affected() == 0 {
                return Err(StoreError::Exists { kind: "release", id: release.version.to_string() });
            }
        }
        Ok(())
    }

    /// One release.
    pub async fn release(&self, version: &ReleaseVersion) -> Result<ReleaseRow, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("read a release"))?;
        self.release_on(&mut connection, version).await
    }

    pub(crate) async fn release_on(
        &self,
        connection: &mut sqlx::AnyConnection,
        version: &ReleaseVersion,
    ) -> Result<ReleaseRow, StoreError> {
        let row = sqlx::query(
            "SELECT version, path, digest, security_version, document, listed, published FROM releases
             WHERE account = $1 AND version = $2",
        )
        .bind(self.id())
        .bind(version.to_string())
        .fetch_optional(connection)
        .await
        .map_err(cannot("read a release"))?;
        row.as_ref()
            .map_or_else(|| Err(StoreError::NotFound { kind: "release", id: version.to_string() }), read_release)
    }

    /// At most `limit` releases whose version, as text, comes after `after`.
    pub async fn releases_after(&self, after: &str, limit: u32) -> Result<Vec<ReleaseRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT version, path, digest, security_version, document, listed, published FROM releases
             WHERE account = $1 AND version > $2 ORDER BY version LIMIT $3",
        )
        .bind(self.id())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list releases"))?;
        rows.iter().map(read_release).collect()
    }
}

impl ServiceWide {
    /// Accounts whose timestamp ends before `before`.
    pub async fn timestamps_ending(&self, before: UnixSeconds) -> Result<Vec<AccountName>, StoreError> {
        let doing = "look for timestamps that end";
        let rows = sqlx::query("SELECT account FROM repositories WHERE timestamp_expires < $1 ORDER BY account")
            .bind(to_sql(before.0))
            .fetch_all(self.store.readers())
            .await
            .map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("repositories", "account"))).collect()
    }
}
