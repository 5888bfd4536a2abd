//! Opens the database and hands out what may ask it. Never runs a query of the product itself.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use protocol_types::{AccountName, EndpointName, UnixSeconds};
use sqlx::{AnyPool, Executor, any::AnyPoolOptions};

use crate::{
    Acting, Change, Filter, Signals, StoreError,
    error::cannot,
    migrations,
    transaction::{Transaction, Tx},
};

/// Which of the two databases answers; the same SQL runs on both, apart from what this module and the migrations do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// The open database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dialect: Dialect,
    writer: AnyPool,
    readers: AnyPool,
    signals: Arc<dyn Signals>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dialect", &self.inner.dialect).finish_non_exhaustive()
    }
}

/// Each connection to SQLite: a commit is on disk when it returns, readers never wait for the writer, references hold, and the case
/// of letters counts as on the other database. Each keeps at most 16 MiB of pages.
const SQLITE_WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000; PRAGMA case_sensitive_like = ON; PRAGMA cache_size = -16384;";
const SQLITE_READER: &str =
    "PRAGMA busy_timeout = 10000; PRAGMA query_only = ON; PRAGMA case_sensitive_like = ON; PRAGMA cache_size = -16384;";
/// Each connection to PostgreSQL: the server soon notices that the host of a connection has died, and ends a transaction that nobody goes
/// on with. Otherwise the turn to write would stay taken for hours, and whoever waited for it would wait as long and say nothing. Over a
/// socket of the same machine the server leaves the two about TCP aside.
const POSTGRES: &str = "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '30s'; SET tcp_user_timeout = 30000; SET tcp_keepalives_idle = 10;";
/// Longest wait for a turn to write or for a free reader.
const ACQUIRE: Duration = Duration::from_secs(30);
const READERS: u32 = 4;

impl Store {
    /// Opens or makes the embedded database in `file` and brings it to the newest migration.
    pub async fn open_file(file: &Path, signals: Arc<dyn Signals>, now: UnixSeconds) -> Result<Self, StoreError> {
        Self::open(&sqlite_url(file, "rwc"), signals, now).await
    }

    /// Opens the database at `url` (`sqlite://…` or `postgres://…`) and brings it to the newest migration.
    pub async fn open(url: &str, signals: Arc<dyn Signals>, now: UnixSeconds) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let dialect = if url.starts_with("postgres") { Dialect::Postgres } else { Dialect::Sqlite };
        let pool = |most, pragmas: &'static str| {
            let options = AnyPoolOptions::new().max_connections(most).acquire_timeout(ACQUIRE);
            let (options, settings) = match dialect {
                Dialect::Postgres => (options, POSTGRES),
                // A connection to a file does not break while it waits, so none is tried out before each use.
                Dialect::Sqlite => (options.idle_timeout(None).max_lifetime(None).test_before_acquire(false), pragmas),
            };
            options.after_connect(move |connection, _| {
                Box::pin(async move { connection.execute(settings).await.map(drop) })
            })
        };
        let doing = "open the database";
        let writer = pool(1, SQLITE_WRITER).connect(url).await.map_err(cannot(doing))?;
        let readers = pool(READERS, SQLITE_READER).connect_lazy(url).map_err(cannot(doing))?;
        let store = Self { inner: Arc::new(Inner { dialect, writer, readers, signals }) };
        migrations::apply(&store, now).await?;
        Ok(store)
    }

    /// The queries of one account.
    pub fn account(&self, account: &AccountName) -> AccountScope {
        AccountScope { store: self.clone(), account: account.clone(), acting: None, only: None }
    }

    /// The queries of one account, on behalf of whom `by` acts for.
    pub fn account_by(&self, account: &AccountName, by: &AccountScope) -> AccountScope {
        AccountScope { acting: by.acting.clone(), ..self.account(account) }
    }

    /// The few queries that look across accounts; for background tasks and for finding out whose request it is.
    pub fn service_wide(&self) -> ServiceWide {
        ServiceWide { store: self.clone() }
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(self.readers()).await.map(drop).map_err(cannot("run a query"))
    }

    /// Whether a query or transaction is under way, or a connection is only just coming back from one.
    pub fn is_busy(&self) -> bool {
        let busy = |pool: &AnyPool| usize::try_from(pool.size()).is_ok_and(|size| size > pool.num_idle());
        busy(&self.inner.writer) || busy(&self.inner.readers)
    }

    /// Waits for transactions under way and closes every connection.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    pub(crate) fn readers(&self) -> &AnyPool {
        &self.inner.readers
    }

    /// Begins the one write transaction that runs at a time; without [`Transaction::commit`] it leaves nothing behind.
    pub(crate) async fn write(&self) -> Result<Transaction, StoreError> {
        let tx = self.begin().await.map_err(cannot("begin a transaction"))?;
        Ok(Transaction::new(tx, self.inner.signals.clone()))
    }

    async fn begin(&self) -> Result<Tx, sqlx::Error> {
        match self.inner.dialect {
            Dialect::Sqlite => self.inner.writer.begin_with("BEGIN IMMEDIATE").await,
            Dialect::Postgres => {
                let mut tx = self.inner.writer.begin().await?;
                // Writers of other nodes queue here, as they do on SQLite, so a read inside a transaction stays true until its end.
                tx.execute("SELECT pg_advisory_xact_lock(26241)").await?;
                Ok(tx)
            }
        }
    }
}

/// The address of the embedded database in `file`, to be opened in this mode of SQLite.
pub(crate) fn sqlite_url(file: &Path, mode: &str) -> String {
    let mut url = String::from("sqlite://");
    for byte in file.as_os_str().as_encoded_bytes() {
        // Everything but plain path characters is escaped, so that no file name can be read as an option.
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => url.push(char::from(*byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url + "?mode=" + mode
}

/// The queries of one account. There is no way from here to another one.
#[derive(Clone, Debug)]
pub struct AccountScope {
    pub(crate) store: Store,
    pub(crate) account: AccountName,
    acting: Option<Arc<Acting>>,
    only: Option<Arc<Filter>>,
}

impl AccountScope {
    /// The account.
    pub fn name(&self) -> &AccountName {
        &self.account
    }

    /// The same account on behalf of somebody: each write transaction leaves an entry in the audit log.
    #[must_use]
    pub fn acting(&self, acting: Acting) -> Self {
        Self { acting: Some(Arc::new(acting)), ..self.clone() }
    }

    /// The same account without the devices for which the filter is false: they are in no list, count or group.
    #[must_use]
    pub fn narrowed(&self, only: Filter) -> Self {
        Self { only: Some(Arc::new(only)), ..self.clone() }
    }

    /// The devices to which this scope is narrowed.
    pub(crate) fn only(&self) -> Option<&Filter> {
        self.only.as_deref()
    }

    pub(crate) fn id(&self) -> &str {
        self.account.as_str()
    }

    /// Begins a write transaction; its commit also tells the audit log, if the scope acts on somebody's behalf.
    pub(crate) async fn write(&self) -> Result<Transaction, StoreError> {
        let tx = self.store.write().await?;
        Ok(match &self.acting {
            Some(acting) => tx.audited(self.account.clone(), acting.clone()),
            None => tx,
        })
    }

    pub(crate) fn readers(&self) -> &AnyPool {
        self.store.readers()
    }

    /// Notes that the standing of a device changed, or that it was deleted.
    pub(crate) fn standing_changed(&self, tx: &mut Transaction, endpoint: &EndpointName) {
        tx.changed(Change::Standing(self.account.clone(), endpoint.clone()));
        tx.changed(self.device_changed(endpoint));
    }

    /// What to note when presence, standing or report of a device changed.
    pub(crate) fn device_changed(&self, endpoint: &EndpointName) -> Change {
        Change::Device(self.account.clone(), endpoint.clone())
    }
}

/// The queries across accounts.
#[derive(Clone, Debug)]
pub struct ServiceWide {
    pub(crate) store: Store,
}
