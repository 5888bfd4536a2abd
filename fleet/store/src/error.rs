//! What a query can answer instead of a result. Never decides how a person is told.

/// Why the store did not do what it was asked; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The account has nothing of that kind under that name.
    #[error("there is no {kind} `{id}`")]
    NotFound {
        /// What was looked for, as in `rollout`.
        kind: &'static str,
        /// The name it was looked for by.
        id: String,
    },
    /// Something of that kind has that name already.
    #[error("there is a {kind} `{id}` already")]
    Exists {
        /// What was to be made.
        kind: &'static str,
        /// The name that is taken.
        id: String,
    },
    /// The resource changed since the caller read it.
    #[error("{kind} `{id}` is at revision {now}, not at the one named")]
    Stale {
        /// What was to be changed.
        kind: &'static str,
        /// Its name.
        id: String,
        /// The revision it has now.
        now: i64,
    },
    /// The resource is in a state in which this cannot be asked of it.
    #[error("{kind} `{id}` is {state}")]
    WrongState {
        /// What was to be changed.
        kind: &'static str,
        /// Its name.
        id: String,
        /// The state it is in.
        state: String,
    },
    /// Who started a rollout cannot be the one who approves it.
    #[error("rollout `{id}` must be approved by somebody else than who started it")]
    SecondPerson {
        /// The rollout.
        id: String,
    },
    /// The code of an authenticator was taken before, or a recovery code is none of the user's.
    #[error("the code of user `{name}` was used before, or is none")]
    CodeRefused {
        /// Who.
        name: String,
    },
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The account would hold more than it may.
    #[error("the account would hold {needed} bytes, its limit is {limit}")]
    OverQuota {
        /// Bytes that the account would hold.
        needed: u64,
        /// Bytes that it may hold.
        limit: u64,
    },
    /// The account, or one above it, would have more of something than its quota.
    #[error("account `{account}` may have {most} of `{what}` together with those below it, and has {used}")]
    QuotaExceeded {
        /// What is counted.
        what: &'static str,
        /// The account whose quota it is.
        account: String,
        /// How much it may have.
        most: u64,
        /// How much it has.
        used: u64,
    },
    /// There would be more of something than there may be.
    #[error("there are at most {most} {what}")]
    TooMany {
        /// What there would be too much of.
        what: &'static str,
        /// How much there may be.
        most: u64,
    },
    /// A group would be part of its own definition.
    #[error("group `{name}` would be part of itself")]
    GroupInItself {
        /// Its name.
        name: String,
    },
    /// An account would stand below itself.
    #[error("account `{name}` would stand below itself")]
    AccountInItself {
        /// Its name.
        name: String,
    },
    /// The groups in a filter stand for too many tests.
    #[error("with its groups written out, the filter has more than {most} tests")]
    FilterTooLarge {
        /// How many it may have.
        most: usize,
    },
    /// A row holds something that this version of the program never writes.
    #[error("{table} holds a row whose {column} cannot be read")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// The database was written by a newer version of the service.
    #[error("the database is at migration {found}, this version knows {known}; start the newer version")]
    TooNew {
        /// Number of the last migration in the database.
        found: i64,
        /// Number of the last migration that this program knows.
        known: i64,
    },
    /// A migration that ran once is not the one that this program carries.
    #[error("migration {number} in the database differs from the one of this version")]
    MigrationChanged {
        /// Its number.
        number: i64,
    },
    /// The database could not be asked.
    #[error("cannot {doing} in the database")]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: sqlx::Error,
    },
}

/// Refuses a change of a resource that was at revision `was` and not at the one that the caller names.
pub(crate) fn at_revision((kind, id): (&'static str, &str), at: Option<i64>, was: i64) -> Result<(), StoreError> {
    match at {
        Some(at) if at != was => Err(StoreError::Stale { kind, id: id.to_owned(), now: was }),
        Some(_) | None => Ok(()),
    }
}

/// Names what was tried, for use in `map_err`.
pub(crate) fn cannot(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Database { doing, source }
}

impl StoreError {
    /// Whether the disk of the database is full: SQLite's `SQLITE_FULL`, PostgreSQL's `disk_full`.
    pub fn is_disk_full(&self) -> bool {
        let Self::Database { source: sqlx::Error::Database(refused), .. } = self else { return false };
        matches!(refused.code().as_deref(), Some("13" | "53100"))
    }
}
