//! Backups of a service that goes on running, and the way back. Format: `docs/formats/backup.md`.
//!
//! First the database, as of one moment, then the files: what the database knows of is on disk before its row is, and files are replaced whole
//! or not at all. So a backup never names what it does not have.

mod archive;
mod database;
mod files;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fleet_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::{
    Clock, Config,
    durable::{self, Audience},
};

/// The first member: what the backup is.
const ABOUT: &str = "backup.json";
/// The folder of the members that go into the data directory.
const DATA: &str = "data/";
/// The member with a dump of PostgreSQL.
const DUMP: &str = "postgres.dump";
/// Lies in a data directory while it is restored; a service does not start there.
pub(crate) const RESTORING: &str = "restoring";

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    /// 1.
    format: u32,
    /// When it was begun, in Unix seconds.
    made: u64,
    /// The version of the service that made it.
    service: String,
    /// Where the database is.
    database: Engine,
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
    if out.exists() {
        return Err(at("make", out)(io::ErrorKind::AlreadyExists.into()));
    }
    let above = out.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Readable by its owner alone, beside `out` so that the last step is a rename, and gone with whatever happens.
    let scratch = tempfile::Builder::new().prefix(".mbl-backup-").tempdir_in(above).map_err(at("use", above))?;
    let (copy, growing) = (scratch.path().join("database"), scratch.path().join("backup"));
    let engine = Engine::of(config);
    let about =
        About { format: 1, made: clock.now().0, service: env!("CARGO_PKG_VERSION").to_owned(), database: engine };
    database::copy(config, &copy).await?;
    let mut archive = archive::Writer::new(&growing)?;
    archive.add_bytes(ABOUT, &serde_json::to_vec(&about).map_err(|e| at("write", out)(e.into()))?)?;
    match engine {
        Engine::Sqlite => archive.add(&format!("{DATA}{}", database::EMBEDDED), &copy)?,
        Engine::Postgres => archive.add(DUMP, &copy)?,
    }
    for file in files::kept(&config.data_dir)? {
        archive.add(&format!("{DATA}{}", file.name), &file.path)?;
    }
    let members = archive.finish()?;
    fs::rename(&growing, out).and_then(|()| durable::sync_folder_of(out)).map_err(at("make", out))?;
    Ok(Backup { members })
}

/// Restores the backup in `from` into the data directory of these settings, which is new or empty, and into their PostgreSQL database, which
/// is empty. A service does not start on what was restored in part.
///
/// # Errors
/// If the backup is not whole, the directory is in use, or something cannot be written.
pub async fn restore(config: &Config, from: &Path) -> Result<Backup, BackupError> {
    let data_dir = &config.data_dir;
    files::make_empty(data_dir)?;
    let about = about(from)?;
    let here = Engine::of(config);
    if about.database != here {
        return Err(BackupError::OtherDatabase { there: about.database.name(), here: here.name() });
    }
    let marker = data_dir.join(RESTORING);
    durable::write(&marker, b"", Audience::Owner).map_err(at("write", &marker))?;
    let dump = data_dir.join(DUMP);
    let place = |name: &str| match name {
        ABOUT => Some(data_dir.join(ABOUT)),
        DUMP => Some(dump.clone()),
        _ => name.strip_prefix(DATA).filter(|rest| !rest.is_empty()).map(|rest| data_dir.join(rest)),
    };
    let members = archive::unpack(from, place)?;
    if let Some(url) = &config.database_url {
        database::fill(url, &dump).await?;
        durable::remove(&dump).map_err(at("remove", &dump))?;
    }
    let about = data_dir.join(ABOUT);
    durable::remove(&about).map_err(at("remove", &about))?;
    files::sync_folders(data_dir)?;
    durable::remove(&marker).map_err(at("remove", &marker))?;
    Ok(Backup { members })
}

/// What the backup in `path` says of itself.
fn about(path: &Path) -> Result<About, BackupError> {
    let broken = |rule: &str| BackupError::Broken { path: path.to_owned(), rule: rule.to_owned() };
    let text = archive::first(path, ABOUT)?.ok_or_else(|| broken("it does not begin as one"))?;
    let about: About = serde_json::from_slice(&text).map_err(|_| broken("what it says of itself is not understood"))?;
    if about.format != 1 {
        return Err(broken("it has a newer format; restore it with the version of the service that made it"));
    }
    Ok(about)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_store::Store;
    use protocol_types::{AccountName, UnixSeconds};

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    async fn used(data_dir: &Path) -> Config {
        let config = Config { data_dir: data_dir.to_owned(), ..Config::default() };
        fs::create_dir_all(data_dir.join("artifacts/acme")).unwrap();
        fs::create_dir_all(data_dir.join("authority")).unwrap();
        for (name, text) in [
            ("authority/service.pem", "a key"),
            ("artifacts/acme/00ff", "an artifact"),
            ("artifacts/acme/11ee.part", "half of one"),
            ("first-token", "a secret"),
            ("lock", ""),
        ] {
            fs::write(data_dir.join(name), text).unwrap();
        }
        let store = Store::open_file(&data_dir.join(database::EMBEDDED), Arc::new(()), NOW).await.unwrap();
        store.ensure_account(&AccountName::new("acme").unwrap(), "Acme", NOW).await.unwrap();
        config
    }

    #[tokio::test]
    async fn what_is_whole_comes_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let config = used(&folder.path().join("first")).await;
        let out = folder.path().join("backup");
        let made = back_up(&config, &out, &Clock::system()).await.unwrap();
        assert!(back_up(&config, &out, &Clock::system()).await.is_err(), "a backup that is there stays");
        let there = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(there, 2, "nothing is left beside it");

        let again = Config { data_dir: folder.path().join("second"), ..Config::default() };
        assert_eq!(restore(&again, &out).await.unwrap(), made);
        let read = |name: &str| fs::read_to_string(again.data_dir.join(name)).ok();
        assert_eq!(read("authority/service.pem").as_deref(), Some("a key"));
        assert_eq!(read("artifacts/acme/00ff").as_deref(), Some("an artifact"));
        for name in ["artifacts/acme/11ee.part", "first-token", "lock", ABOUT, RESTORING] {
            assert_eq!(read(name), None, "{name}");
        }
        let store = Store::open_file(&again.data_dir.join(database::EMBEDDED), Arc::new(()), NOW).await.unwrap();
        let accounts = store.service_wide().accounts_after("", 9).await.unwrap();
        assert_eq!(accounts.iter().map(|account| account.name.as_str()).collect::<Vec<_>>(), ["acme"]);
        assert!(matches!(restore(&again, &out).await, Err(BackupError::NotEmpty(_))));
    }

    #[tokio::test]
    async fn no_service_starts_on_a_restore_that_broke_off() {
        let folder = tempfile::tempdir().unwrap();
        let config = used(&folder.path().join("first")).await;
        let out = folder.path().join("backup");
        back_up(&config, &out, &Clock::system()).await.unwrap();
        let whole = fs::read(&out).unwrap();
        fs::write(&out, &whole[..whole.len() - 2000]).unwrap();
        let again = Config { data_dir: folder.path().join("second"), ..Config::default() };
        assert!(restore(&again, &out).await.is_err());
        let started = crate::run::occupy(&again.data_dir);
        assert!(matches!(started, Err(crate::RunError::Restoring(_))), "{started:?}");
        fs::write(&out, "no backup").unwrap();
        let other = Config { data_dir: folder.path().join("third"), ..Config::default() };
        assert!(matches!(restore(&other, &out).await, Err(BackupError::Broken { .. })));
    }

    #[tokio::test]
    async fn a_backup_of_one_database_is_not_restored_into_another_kind() {
        let folder = tempfile::tempdir().unwrap();
        let config = used(&folder.path().join("first")).await;
        let out = folder.path().join("backup");
        back_up(&config, &out, &Clock::system()).await.unwrap();
        let url = Some("postgres://nobody@localhost/none".to_owned());
        let other = Config { data_dir: folder.path().join("second"), database_url: url, ..Config::default() };
        assert!(matches!(restore(&other, &out).await, Err(BackupError::OtherDatabase { .. })));
    }
}
