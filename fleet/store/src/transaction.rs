//! One write: every statement or none, and the signals of what it changed only once it is on disk.

use std::sync::Arc;

use protocol_types::AccountName;
use serde_json::Value;
use sqlx::{Any, AnyConnection, Executor as _};

use crate::{
    Acting, Change, Signals, StoreError,
    error::cannot,
    events::audit::{self, Notes},
};

pub(crate) type Tx = sqlx::Transaction<'static, Any>;

/// A write transaction; dropped without a commit it leaves nothing behind.
pub(crate) struct Transaction {
    tx: Tx,
    changes: Vec<Change>,
    signals: Arc<dyn Signals>,
    /// On whose behalf, and the accounts whose logs tell it.
    audit: Option<(Vec<AccountName>, Arc<Acting>)>,
    notes: Notes,
}

/// A part of a transaction on nobody's behalf that has begun.
pub(crate) struct Part {
    /// Changes that were noted before it.
    changes: usize,
}

impl Transaction {
    pub(crate) fn new(tx: Tx, signals: Arc<dyn Signals>) -> Self {
        Self { tx, changes: Vec::new(), signals, audit: None, notes: Notes::default() }
    }

    /// The same transaction, which tells the audit log of the account what it did and for whom.
    pub(crate) fn audited(self, account: AccountName, acting: Arc<Acting>) -> Self {
        Self { audit: Some((vec![account], acting)), ..self }
    }

    /// Tells the audit log of one more account.
    pub(crate) fn also_audited(&mut self, account: &AccountName) {
        if let Some((accounts, _)) = self.audit.as_mut().filter(|(accounts, _)| !accounts.contains(account)) {
            accounts.push(account.clone());
        }
    }

    /// Notes a change for the audit log.
    pub(crate) fn note(&mut self, kind: &str, subject: &str, data: &Value) {
        if self.audit.is_some() {
            self.notes.add(kind, subject, data);
        }
    }

    /// The connection, for running statements: `.execute(tx.sql())`.
    pub(crate) fn sql(&mut self) -> &mut AnyConnection {
        &mut self.tx
    }

    /// Notes what the rest of the service hears after the commit.
    pub(crate) fn changed(&mut self, change: Change) {
        if !self.changes.contains(&change) {
            self.changes.push(change);
        }
    }

    /// Begins a part whose failure leaves the rest as it is. Parts do not stand inside each other.
    pub(crate) async fn begin_part(&mut self) -> Result<Part, StoreError> {
        self.sql().execute("SAVEPOINT part").await.map_err(cannot("begin a part of a transaction"))?;
        Ok(Part { changes: self.changes.len() })
    }

    /// Ends a part: nothing is left of one that has failed. An error means that the transaction cannot go on.
    pub(crate) async fn end_part<T>(&mut self, part: Part, done: &Result<T, StoreError>) -> Result<(), StoreError> {
        let doing = "end a part of a transaction";
        if done.is_err() {
            self.sql().execute("ROLLBACK TO SAVEPOINT part").await.map_err(cannot(doing))?;
            self.changes.truncate(part.changes);
        }
        self.sql().execute("RELEASE SAVEPOINT part").await.map(drop).map_err(cannot(doing))
    }

    /// Makes everything durable together with its entry in the audit log, then tells the rest of the service.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        if let Some((accounts, acting)) = self.audit.take() {
            let notes = std::mem::take(&mut self.notes);
            for account in &accounts {
                audit::append(&mut self, (account, &acting), audit::DONE, &notes).await?;
            }
        }
        self.tx.commit().await.map_err(cannot("commit a transaction"))?;
        if !self.changes.is_empty() {
            self.signals.committed(&self.changes);
        }
        Ok(())
    }
}
