//! One write: every statement or none, and the signals of what it changed only once it is on disk.

use std::sync::Arc;

use sqlx::{Any, AnyConnection};

use crate::{Change, Signals, StoreError, error::cannot};

pub(crate) type Tx = sqlx::Transaction<'static, Any>;

/// A write transaction; dropped without a commit it leaves nothing behind.
pub(crate) struct Transaction {
    tx: Tx,
    changes: Vec<Change>,
    signals: Arc<dyn Signals>,
}

impl Transaction {
    pub(crate) fn new(tx: Tx, signals: Arc<dyn Signals>) -> Self {
        Self { tx, changes: Vec::new(), signals }
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

    /// Makes everything durable, then tells the rest of the service.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await.map_err(cannot("commit a transaction"))?;
        if !self.changes.is_empty() {
            self.signals.committed(&self.changes);
        }
        Ok(())
    }
}
