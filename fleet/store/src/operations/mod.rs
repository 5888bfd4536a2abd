//! Long operations: what was asked, how far it is, and what became of each row. The place where the work goes on is written together
//! with the rows before it, so an operation that was cut off at any instant does each row exactly once. Never does the work itself.

#[cfg(test)]
mod tests;

use protocol_types::{AccountName, OperationState, RowOutcome, UnixSeconds};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Change, DeviceEdit, EventDraft, Filter, RequestKey, ServiceWide, StoreError,
    error::cannot,
    events, idempotency,
    numbered::Numbered,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// What an operation is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OperationRequest {
    /// Put the certificates of a list among those that may join.
    EnrolList {
        /// Name of the file that holds the list.
        file: String,
    },
    /// Do the same to every device that a filter is true for when its turn comes.
    EditDevices {
        /// Which devices.
        filter: Filter,
        /// What is done to each.
        edit: Box<DeviceEdit>,
    },
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowReport {
    /// Line of the list, or place among the devices: 1, 2, 3 and so on.
    pub line: u64,
    /// The device or certificate, as far as it is known.
    pub subject: Option<String>,
    /// What became of it.
    pub outcome: RowOutcome,
    /// A stable code, if it was refused.
    pub code: Option<String>,
    /// What is wrong, in one sentence.
    pub detail: Option<String>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationRow {
    /// Its number in the account: 1, 2, 3 and so on.
    pub number: u64,
    /// What it does.
    pub request: OperationRequest,
    /// How far it is.
    pub state: OperationState,
    /// How many rows there are, as far as that is known; for devices as many as the filter was true for at the beginning.
    pub total: Option<u64>,
    /// Rows that were done.
    pub done: u64,
    /// Rows that were so already.
    pub unchanged: u64,
    /// Rows that were refused.
    pub refused: u64,
    /// Where the work goes on; what that means is a matter of the kind.
    pub position: String,
    /// Why it failed, as code and sentence.
    pub reason: Option<(String, String)>,
    /// When it was asked for.
    pub created: UnixSeconds,
    /// When it began.
    pub started: Option<UnixSeconds>,
    /// When it ended.
    pub ended: Option<UnixSeconds>,
}

impl OperationRow {
    /// Its name in addresses.
    pub fn id(&self) -> String {
        format!("op-{}", self.number)
    }

    /// Rows that have had their turn.
    pub const fn rows(&self) -> u64 {
        self.done.saturating_add(self.unchanged).saturating_add(self.refused)
    }
}

/// Operations of an account that may wait or run at a time.
pub const MAX_OPEN_OPERATIONS: u64 = 100;

/// Rows that one statement writes; SQLite takes some thousand parameters at a time.
const ROWS_AT_ONCE: usize = 100;

impl Numbered for OperationRow {
    const KIND: &'static str = "operation";
    const PREFIX: &'static str = "op-";
    const DOING: &'static str = "read an operation";
    const TABLE: &'static str = "operations";
    const COLUMNS: &'static str =
        "number, request, state, total, done, unchanged, refused, position, reason_code, reason_text,
    created, started, ended";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = Self::DOING;
        let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        let optional = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
        let text = |column| row.try_get::<Option<String>, _>(column).map_err(cannot(doing));
        let request = text("request")?.unwrap_or_default();
        Ok(Self {
            number: number("number")?,
            request: serde_json::from_str(&request)
                .map_err(|_| StoreError::Damaged { table: "operations", column: "request" })?,
            state: formed(row, doing, ("operations", "state"))?,
            total: optional("total")?.map(from_sql),
            done: number("done")?,
            unchanged: number("unchanged")?,
            refused: number("refused")?,
            position: text("position")?.unwrap_or_default(),
            reason: text("reason_code")?.zip(text("reason_text")?),
            created: UnixSeconds(number("created")?),
            started: optional("started")?.map(time),
            ended: optional("ended")?.map(time),
        })
    }
}

impl AccountScope {
    /// Asks for an operation. With a key that was used before nothing is made and the earlier operation is the answer.
    pub async fn create_operation(
        &self,
        request: &OperationRequest,
        total: Option<u64>,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<OperationRow, StoreError> {
        let doing = "make an operation";
        let mut tx = self.write().await?;
        let row = sqlx::query("SELECT COALESCE(MAX(number), 0) + 1 AS next FROM operations WHERE account = $1")
            .bind(self.id())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let number: i64 = row.try_get("next").map_err(cannot(doing))?;
        if let Some(earlier) = idempotency::claim_number(&mut tx, self, key, from_sql(number), now).await? {
            drop(tx);
            return self.operation(earlier).await;
        }
        let open = ("operations of an account that have not ended", MAX_OPEN_OPERATIONS);
        self.must_have_room::<OperationRow>(&mut tx, open).await?;
        let text = serde_json::to_string(request)
            .map_err(|_| StoreError::Damaged { table: "operations", column: "request" })?;
        sqlx::query(
            "INSERT INTO operations (account, number, request, state, total, created) VALUES ($1, $2, $3, 'waiting', $4, $5)",
        )
        .bind(self.id())
        .bind(number)
        .bind(text)
        .bind(total.map(to_sql))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let draft =
            EventDraft { kind: "operation.created", subject: format!("operations/op-{number}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.changed(Change::Operations(self.account.clone()));
        tx.commit().await?;
        self.operation(from_sql(number)).await
    }

    /// One operation.
    pub async fn operation(&self, number: u64) -> Result<OperationRow, StoreError> {
        self.numbered(number).await
    }

    /// At most `limit` operations, the newest first, after the one of number `before`.
    pub async fn operations_before(&self, before: Option<u64>, limit: u32) -> Result<Vec<OperationRow>, StoreError> {
        self.numbered_before(before, limit).await
    }

    /// At most `limit` rows of an operation's report whose line comes after `after`, of one outcome if that is asked for.
    pub async fn operation_rows_after(
        &self,
        number: u64,
        outcome: Option<RowOutcome>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<RowReport>, StoreError> {
        let doing = "read the report of an operation";
        // Written out, so that the index of refused rows is used.
        let only = outcome.map(|outcome| format!("AND outcome = '{}'", outcome.as_str())).unwrap_or_default();
        let query = format!(
            "SELECT line, subject, outcome, code, detail FROM operation_rows
             WHERE account = $1 AND operation = $2 AND line > $3 {only} ORDER BY line LIMIT $4"
        );
        let rows = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(to_sql(number))
            .bind(to_sql(after))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let text = |column| row.try_get::<Option<String>, _>(column).map_err(cannot(doing));
                Ok(RowReport {
                    line: from_sql(row.try_get("line").map_err(cannot(doing))?),
                    subject: text("subject")?,
                    outcome: formed(row, doing, ("operation_rows", "outcome"))?,
                    code: text("code")?,
                    detail: text("detail")?,
                })
            })
            .collect()
    }

    /// Stops an operation; rows that were done stay so. A second time changes nothing; what has ended otherwise is refused.
    pub async fn cancel_operation(&self, number: u64, now: UnixSeconds) -> Result<OperationRow, StoreError> {
        let mut tx = self.write().await?;
        let row: OperationRow = self.numbered_on(tx.sql(), number).await?;
        match row.state {
            OperationState::Waiting | OperationState::Running => {
                self.end_operation(&mut tx, &row, (OperationState::Cancelled, None), now).await?;
                tx.commit().await?;
            }
            OperationState::Cancelled => {}
            OperationState::Finished | OperationState::Failed => {
                let state = row.state.as_str().to_owned();
                return Err(StoreError::WrongState { kind: "operation", id: row.id(), state });
            }
        }
        self.operation(number).await
    }

    /// Ends an operation that cannot go on.
    pub async fn fail_operation(
        &self,
        number: u64,
        (code, text): (&str, &str),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let row: OperationRow = self.numbered_on(tx.sql(), number).await?;
        if !row.state.is_end() {
            self.end_operation(&mut tx, &row, (OperationState::Failed, Some((code, text))), now).await?;
        }
        tx.commit().await
    }

    /// The operation, if it has not ended; from now on it is running.
    pub(crate) async fn take_up(
        &self,
        tx: &mut Transaction,
        number: u64,
        now: UnixSeconds,
    ) -> Result<Option<OperationRow>, StoreError> {
        let row: OperationRow = self.numbered_on(tx.sql(), number).await?;
        if row.state == OperationState::Waiting {
            sqlx::query("UPDATE operations SET state = 'running', started = $3 WHERE account = $1 AND number = $2")
                .bind(self.id())
                .bind(to_sql(number))
                .bind(to_sql(now.0))
                .execute(tx.sql())
                .await
                .map_err(cannot("begin an operation"))?;
        }
        Ok(Some(row).filter(|row| !row.state.is_end()))
    }

    /// Writes what became of these rows and where the work goes on.
    pub(crate) async fn record_rows(
        &self,
        tx: &mut Transaction,
        number: u64,
        rows: &[RowReport],
        position: &str,
    ) -> Result<OperationRow, StoreError> {
        let doing = "write the report of an operation";
        for some in rows.chunks(ROWS_AT_ONCE) {
            let mut sql =
                "INSERT INTO operation_rows (account, operation, line, subject, outcome, code, detail) VALUES "
                    .to_owned();
            for index in 0..some.len() {
                let first = 3 + index * 5;
                let comma = if index == 0 { "" } else { ", " };
                sql += &format!(
                    "{comma}($1, $2, ${first}, ${}, ${}, ${}, ${})",
                    first + 1,
                    first + 2,
                    first + 3,
                    first + 4
                );
            }
            let mut query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(to_sql(number));
            for row in some {
                query = query
                    .bind(to_sql(row.line))
                    .bind(row.subject.as_deref())
                    .bind(row.outcome.as_str())
                    .bind(row.code.as_deref())
                    .bind(row.detail.as_deref());
            }
            query.execute(tx.sql()).await.map_err(cannot(doing))?;
        }
        let of = |outcome| to_sql(rows.iter().filter(|row| row.outcome == outcome).count() as u64);
        sqlx::query(
            "UPDATE operations SET done = done + $3, unchanged = unchanged + $4, refused = refused + $5, position = $6
             WHERE account = $1 AND number = $2",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(of(RowOutcome::Done))
        .bind(of(RowOutcome::Unchanged))
        .bind(of(RowOutcome::Refused))
        .bind(position)
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        self.numbered_on(tx.sql(), number).await
    }

    /// Ends an operation; then its total is what had its turn.
    pub(crate) async fn end_operation(
        &self,
        tx: &mut Transaction,
        row: &OperationRow,
        (state, reason): (OperationState, Option<(&str, &str)>),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let (code, text) = reason.unzip();
        let total = if state == OperationState::Finished { Some(row.rows()) } else { row.total };
        sqlx::query(
            "UPDATE operations SET state = $3, reason_code = $4, reason_text = $5, ended = $6, total = $7
             WHERE account = $1 AND number = $2",
        )
        .bind(self.id())
        .bind(to_sql(row.number))
        .bind(state.as_str())
        .bind(code)
        .bind(text)
        .bind(to_sql(now.0))
        .bind(total.map(to_sql))
        .execute(tx.sql())
        .await
        .map_err(cannot("end an operation"))?;
        let data = json!({ "done": row.done, "unchanged": row.unchanged, "refused": row.refused, "reason": code });
        let kind = format!("operation.{}", state.as_str());
        tx.changed(Change::Operations(self.account.clone()));
        events::append(tx, self, now, EventDraft { kind: &kind, subject: format!("operations/{}", row.id()), data })
            .await
    }
}

impl ServiceWide {
    /// The operations of every account that have not ended, in the order in which they were asked for.
    pub async fn open_operations(&self) -> Result<Vec<(AccountName, OperationRow)>, StoreError> {
        self.numbered_open().await
    }

    /// Forgets at most `limit` rows of the reports of operations that ended before `before`. Answers how many. The newest operation of an
    /// account keeps its report.
    pub async fn forget_operation_rows(&self, before: UnixSeconds, limit: u32) -> Result<u64, StoreError> {
        // The few operations first: SQLite keeps to the order of a CROSS JOIN.
        let sql = "DELETE FROM operation_rows WHERE (account, operation, line) IN
                       (SELECT r.account, r.operation, r.line FROM operations o CROSS JOIN operation_rows r
                        WHERE o.ended < $1 AND r.account = o.account AND r.operation = o.number AND EXISTS
                           (SELECT 1 FROM operations n WHERE n.account = o.account AND n.number > o.number)
                        LIMIT $2)";
        self.forget("forget reports of old operations", sql, (before, limit)).await
    }

    /// Forgets at most `limit` operations that ended before `before` and whose reports are forgotten. Answers how many. The newest of an
    /// account stays: the next one is counted from it.
    pub async fn forget_operations(&self, before: UnixSeconds, limit: u32) -> Result<u64, StoreError> {
        let sql = "DELETE FROM operations WHERE (account, number) IN
                       (SELECT o.account, o.number FROM operations o WHERE o.ended < $1 AND EXISTS
                           (SELECT 1 FROM operations n WHERE n.account = o.account AND n.number > o.number)
                        AND NOT EXISTS
                           (SELECT 1 FROM operation_rows r WHERE r.account = o.account AND r.operation = o.number)
                        ORDER BY o.ended LIMIT $2)";
        self.forget("forget old operations", sql, (before, limit)).await
    }
}
