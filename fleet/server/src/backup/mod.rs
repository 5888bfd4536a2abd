//! Backups of a service that goes on running, and the way back. Format: `docs/formats/backup.md`.
//!
//! First the database, as of one moment, then the files: what the database knows of is on disk before its row is, and files are replaced whole
//! or not at all. So a backup never names what it does not have. Artifacts in a bucket stay there; the backup says which, and a restore looks for them.

mod archive;
mod database;
mod files;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use fleet_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::{
    BucketError, Clock, Config,
    artifact_store::Bucket,
    config::EMBEDDED_DATABASE,
    durable::{self, Audience},
};

/// The first member: what the backup is.
const ABOUT: &str = "backup.json";
/// The folder of the members that go into the data directory.
const DATA: &str = "data/";
/// The member with a dump of PostgreSQL.
const DUMP: &str = "postgres.dump";
/// The member with the lengths of the artifacts in the bucket, by account and digest.
const OBJECTS: &str = "objects.json";
/// What the names of artifacts in the data directory begin with.
const ARTIFACTS: &str = "artifacts/";
/// What the names of lists that are worked through begin with.
const LISTS: &str = "lists/";
/// Lies in a data directory while it is restored; a service does not start there.
pub(crate) const RESTORING: &str = "restoring";

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    /// 1, or 2 with a bucket.
    format: u32,
    /// When it was begun, in Unix seconds.
    made: u64,
    /// The version of the service that made it.
    service: String,
    /// Where the database is.
    database: Engine,
    /// Name and prefix of the bucket with the artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Sqlite,
    Postgres,
}

/// A backup that was made or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Members of the archive.
    pub members: usize,
}

/// Why there is no backup, or why it is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The database cannot be copied.
    #[error("cannot back the database up")]
    Database(#[from] StoreError),
    /// A program of PostgreSQL did not do its work.
    #[error("{program} failed: {why}; it is in the package `postgresql-client`, of the server's version or newer")]
    Tool {
        /// The program.
        program: &'static str,
        /// What it said.
        why: String,
    },
    /// `database_url` is no address.
    #[error("`database_url` is not understood")]
    Address(#[source] url::ParseError),
    /// The data directory is in use.
    #[error("{} is not empty; a backup is restored into a new folder", .0.display())]
    NotEmpty(PathBuf),
    /// The backup holds another kind of database than the settings name.
    #[error("the backup is of a service on {there}, the settings name {here}: set `database_url` as it was", there = .there, here = .here)]
    OtherDatabase {
        /// In the backup.
        there: &'static str,
        /// In the settings.
        here: &'static str,
    },
    /// The bucket of the settings cannot be used.
    #[error("cannot open the bucket of artifacts")]
    Bucket(#[from] BucketError),
    /// The bucket does not say what it holds.
    #[error("cannot list the artifacts in the bucket `{bucket}`")]
    List {
        /// Its name and prefix.
        bucket: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The backup is of a service with a bucket, and the settings name none.
    #[error("the artifacts of this backup are in the bucket `{0}`: set `bucket` as it was, or to a copy of it")]
    NoBucket(String),
    /// The bucket does not have what the backup leaves to it.
    #[error("the bucket `{bucket}` lacks {missing} artifacts of the backup, `{first}` for one: copy them there first")]
    Missing {
        /// Its name and prefix.
        bucket: String,
        /// How many.
        missing: usize,
        /// The first of them.
        first: String,
    },
    /// The file is not a whole backup.
    #[error("{} is not a whole backup: {rule}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        rule: String,
    },
}

/// Maps an I/O error of doing something on a file.
fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { doing, path, source }
}

impl Engine {
    const fn of(config: &Config) -> Self {
        if config.database_url.is_some() { Self::Postgres } else { Self::Sqlite }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// Backs up the service of these settings, which may run, into the new file `out`. It holds every key of the service.
///
/// # Errors
/// If anything cannot be read or `out` cannot be written; then there is no `out`.
pub async fn back_up(config: &Config, out: &Path, clock: &Clock) -> Result<Backup, BackupError> {
    back_up_with(config, open(config).await?.as_ref(), out, clock).await
}

/// The bucket of the settings.
async fn open(config: &Config) -> Result<Option<Bucket>, BackupError> {
    match &config.bucket {
        Some(settings) => Ok(Some(Bucket::open(settings).await?)),
        None => Ok(None),
    }
}

async fn back_up_with(
    config: &Config,
    bucket: Option<&Bucket>,
    out: &Path,
    clock: &Clock,
) -> Result<Backup, BackupError> {
    if out.exists() {
        return Err(at("make", out)(io::ErrorKind::AlreadyExists.into()));
    }
    let above = out.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Readable by its owner alone, beside `out` so that the last step is a rename, and gone with whatever happens.
    let scratch = tempfile::Builder::new().prefix(".mbl-backup-").tempdir_in(above).map_err(at("use", above))?;
    let (copy, growing) = (scratch.path().join("database"), scratch.path().join("backup"));
    let engine = Engine::of(config);
    let about = About {
        format: if bucket.is_some() { 2 } else { 1 },
        made: clock.now().0,
        service: env!("CARGO_PKG_VERSION").to_owned(),
        database: engine,
        bucket: bucket.map(|bucket| bucket.name().to_owned()),
    };
    database::copy(config, &copy).await?;
    let mut archive = archive::Writer::new(&growing)?;
    archive.add_bytes(ABOUT, &serde_json::to_vec(&about).map_err(|e| at("write", out)(e.into()))?)?;
    match engine {
        Engine::Sqlite => archive.add(&format!("{DATA}{EMBEDDED_DATABASE}"), &copy)?,
        Engine::Postgres => archive.add(DUMP, &copy)?,
    }
    add_files(&mut archive, &files::kept(&config.data_dir)?, bucket.is_some())?;
    if let Some(bucket) = bucket {
        let text = serde_json::to_vec(&list(bucket).await?).map_err(|e| at("write", out)(e.into()))?;
        archive.add_bytes(OBJECTS, &text)?;
    }
    let members = archive.finish()?;
    fs::rename(&growing, out).and_then(|()| durable::sync_folder_of(out)).map_err(at("make", out))?;
    Ok(Backup { members })
}

/// Adds the files of a data directory, as they were found.
fn add_files(archive: &mut archive::Writer, found: &[files::Kept], has_bucket: bool) -> Result<(), BackupError> {
    let may_go = |name: &str| name.starts_with(LISTS) || (has_bucket && name.starts_with(ARTIFACTS));
    for file in found {
        match archive.add(&format!("{DATA}{}", file.name), &file.path) {
            // The service has moved it into the bucket, which is listed after this, or is through with the list.
            Err(BackupError::File { source, .. }) if may_go(&file.name) && source.kind() == io::ErrorKind::NotFound => {
            }
            other => other?,
        }
    }
    Ok(())
}

/// Restores the backup in `from` into the data directory of these settings, which is new or empty, and into their PostgreSQL database, which
/// is empty. A service does not start on what was restored in part.
///
/// # Errors
/// If the backup is not whole, the directory is in use, or something cannot be written.
pub async fn restore(config: &Config, from: &Path) -> Result<Backup, BackupError> {
    restore_with(config, open(config).await?.as_ref(), from).await
}

async fn restore_with(config: &Config, bucket: Option<&Bucket>, from: &Path) -> Result<Backup, BackupError> {
    let data_dir = &config.data_dir;
    files::make_empty(data_dir)?;
    let about = about(from)?;
    let here = Engine::of(config);
    if about.database != here {
        return Err(BackupError::OtherDatabase { there: about.database.name(), here: here.name() });
    }
    if let (Some(there), None) = (about.bucket, bucket) {
        return Err(BackupError::NoBucket(there));
    }
    let marker = data_dir.join(RESTORING);
    durable::write(&marker, b"", Audience::Owner).map_err(at("write", &marker))?;
    let dump = data_dir.join(DUMP);
    let place = |name: &str| match name {
        ABOUT | OBJECTS => Some(data_dir.join(name)),
        DUMP => Some(dump.clone()),
        _ => name.strip_prefix(DATA).filter(|rest| !rest.is_empty()).map(|rest| data_dir.join(rest)),
    };
    let members = archive::unpack(from, place)?;
    if let Some(bucket) = bucket {
        look_for(bucket, &data_dir.join(OBJECTS)).await?;
    }
    if let Some(url) = &config.database_url {
        database::fill(url, &dump).await?;
        durable::remove(&dump).map_err(at("remove", &dump))?;
    }
    for name in [ABOUT, OBJECTS] {
        let path = data_dir.join(name);
        durable::remove(&path).map_err(at("remove", &path))?;
    }
    files::sync_folders(data_dir)?;
    durable::remove(&marker).map_err(at("remove", &marker))?;
    Ok(Backup { members })
}

async fn list(bucket: &Bucket) -> Result<BTreeMap<String, u64>, BackupError> {
    bucket.list().await.map_err(|source| BackupError::List { bucket: bucket.name().to_owned(), source })
}

/// Looks in the bucket for every artifact that the backup leaves to it; `listed` is its member, if it has one.
async fn look_for(bucket: &Bucket, listed: &Path) -> Result<(), BackupError> {
    let text = match fs::read(listed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at("read", listed))?,
    };
    let wanted: BTreeMap<String, u64> = serde_json::from_slice(&text).map_err(|e| at("read", listed)(e.into()))?;
    let there = list(bucket).await?;
    let mut missing = wanted.iter().filter(|(name, length)| there.get(*name) != Some(*length));
    match missing.next() {
        None => Ok(()),
        Some((first, _)) => Err(BackupError::Missing {
            bucket: bucket.name().to_owned(),
            missing: 1 + missing.count(),
            first: first.clone(),
        }),
    }
}

/// What the backup in `path` says of itself.
fn about(path: &Path) -> Result<About, BackupError> {
    let broken = |rule: &str| BackupError::Broken { path: path.to_owned(), rule: rule.to_owned() };
    let text = archive::first(path, ABOUT)?.ok_or_else(|| broken("it does not begin as one"))?;
    let about: About = serde_json::from_slice(&text).map_err(|_| broken("what it says of itself is not understood"))?;
    if ![1, 2].contains(&about.format) {
        return Err(broken("it has a newer format; restore it with the version of the service that made it"));
    }
    Ok(about)
}

#[cfg(test)]
mod tests;
