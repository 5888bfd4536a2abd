//! The log of what was done in an account: append-only, each entry chained to the one before it by its hash, and written in the
//! transaction of the change that it tells (`docs/formats/audit-log.md`). Nothing here changes or removes an entry.

use std::collections::BTreeMap;

use protocol_types::{AccountName, Digest, UnixSeconds};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, StoreError,
    error::cannot,
    numbers::{from_sql, to_sql},
    transaction::Transaction,
};

/// Changes that one entry lists; of more only their number is told.
const MAX_CHANGES: usize = 100;
/// The outcome of a change that happened.
pub(crate) const DONE: &str = "done";
/// The kind of the change by which a refusal says how many it stands for.
const LEFT_OUT: &str = "audit.refusals_left_out";
/// What the first entry of an account names as the one before it.
const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// On whose behalf an account is changed, and by which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acting {
    /// Id of the request, as in the header `X-Request-Id`.
    pub request: String,
    /// Who, as in `service/ci` or `token/1f0c…`.
    pub principal: String,
    /// The account whose principal it is.
    pub home: AccountName,
    /// Id of the token or session that was shown.
    pub credential: String,
    /// From where: address of the other end of the connection.
    pub address: String,
    /// What was asked: the operation's name in the description of the API.
    pub action: String,
    /// On what: the path below `/api/v1/`.
    pub resource: String,
    /// When.
    pub time: UnixSeconds,
}

/// Refusals of one principal that are told together: the last one, and how many of each action there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    last: Acting,
    outcome: String,
    since: UnixSeconds,
    actions: BTreeMap<String, u64>,
}

impl LeftOut {
    /// One refusal; `outcome` is its code.
    pub fn new(acting: Acting, outcome: &str) -> Self {
        let actions = BTreeMap::from([(acting.action.clone(), 1)]);
        Self { outcome: outcome.to_owned(), since: acting.time, actions, last: acting }
    }

    /// Adds more refusals of the same principal.
    pub fn add(&mut self, more: Self) {
        self.since = self.since.min(more.since);
        for (action, refusals) in more.actions {
            let all = self.actions.entry(action).or_default();
            *all = all.saturating_add(refusals);
        }
        if more.last.time >= self.last.time {
            (self.last, self.outcome) = (more.last, more.outcome);
        }
    }
}

/// A change that a transaction made, as its event tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Noted {
    pub(crate) kind: String,
    pub(crate) subject: String,
    pub(crate) data: Value,
}

/// The changes of a transaction, in order.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    first: Vec<Noted>,
    more: usize,
}

impl Notes {
    pub(crate) fn add(&mut self, kind: &str, subject: &str, data: &Value) {
        if self.first.len() < MAX_CHANGES {
            self.first.push(Noted { kind: kind.to_owned(), subject: subject.to_owned(), data: data.clone() });
        } else {
            self.more += 1;
        }
    }
}

/// The text of an entry. The order of the fields is part of the format.
#[derive(Serialize)]
struct Entry<'a> {
    account: &'a AccountName,
    number: u64,
    time: UnixSeconds,
    request: &'a str,
    principal: &'a str,
    home: &'a AccountName,
    credential: &'a str,
    address: &'a str,
    action: &'a str,
    resource: &'a str,
    outcome: &'a str,
    changes: &'a [Noted],
    more_changes: usize,
    previous: &'a str,
}

/// An entry as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Position in the account: 1, 2, 3 and so on.
    pub number: u64,
    /// Its text, a JSON object.
    pub entry: String,
    /// SHA-256 of the text, 64 hexadecimal digits.
    pub hash: String,
}

fn read(row: &AnyRow) -> Result<AuditRow, StoreError> {
    let doing = "read the audit log";
    Ok(AuditRow {
        number: from_sql(row.try_get("number").map_err(cannot(doing))?),
        entry: row.try_get("entry").map_err(cannot(doing))?,
        hash: row.try_get("hash").map_err(cannot(doing))?,
    })
}

/// Appends what a transaction did.
pub(crate) async fn append(
    tx: &mut Transaction,
    (account, acting): (&AccountName, &Acting),
    outcome: &str,
    notes: &Notes,
) -> Result<(), StoreError> {
    let doing = "append to the audit log";
    let last =
        sqlx::query("SELECT number, entry, hash FROM audit_entries WHERE account = $1 ORDER BY number DESC LIMIT 1")
            .bind(account.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?
            .as_ref()
            .map(read)
            .transpose()?;
    let (number, previous) =
        last.map_or((1, NOTHING_BEFORE.to_owned()), |last| (last.number.saturating_add(1), last.hash));
    let entry = Entry {
        account,
        number,
        time: acting.time,
        request: &acting.request,
        principal: &acting.principal,
        home: &acting.home,
        credential: &acting.credential,
        address: &acting.address,
        action: &acting.action,
        resource: &acting.resource,
        outcome,
        changes: &notes.first,
        more_changes: notes.more,
        previous: &previous,
    };
    let text =
        serde_json::to_string(&entry).map_err(|_| StoreError::Damaged { table: "audit_entries", column: "entry" })?;
    sqlx::query("INSERT INTO audit_entries (account, number, entry, hash) VALUES ($1, $2, $3, $4)")
        .bind(account.as_str())
        .bind(to_sql(number))
        .bind(text.as_str())
        .bind(Digest::of(text.as_bytes()).hex())
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
    Ok(())
}

impl AccountScope {
    /// At most `limit` entries of the audit log after position `after`, oldest first.
    pub async fn audit_after(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT number, entry, hash FROM audit_entries WHERE account = $1 AND number > $2 ORDER BY number LIMIT $3",
        )
        .bind(self.id())
        .bind(to_sql(after))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("read the audit log"))?;
        rows.iter().map(read).collect()
    }

    /// Notes that a change was asked for and did not happen; `outcome` is the code of the refusal.
    pub async fn note_refused(&self, acting: &Acting, outcome: &str) -> Result<(), StoreError> {
        self.append_refusal(acting, outcome, &Notes::default()).await
    }

    /// Notes refusals that were not noted one by one: the last of them, and how many it stands for.
    pub async fn note_left_out(&self, left_out: &LeftOut) -> Result<(), StoreError> {
        let LeftOut { last, outcome, since, actions } = left_out;
        let refusals = actions.values().fold(0, |all: u64, some| all.saturating_add(*some));
        let mut notes = Notes::default();
        if refusals > 1 {
            let data = json!({ "refusals": refusals, "since": since, "actions": actions });
            notes.add(LEFT_OUT, &last.principal, &data);
        }
        self.append_refusal(last, outcome, &notes).await
    }

    async fn append_refusal(&self, acting: &Acting, outcome: &str, notes: &Notes) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        append(&mut tx, (&self.account, acting), outcome, notes).await?;
        tx.commit().await
    }
}
