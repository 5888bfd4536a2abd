//! Jobs: the same to many devices, a command for each. What was asked, how far it is, and what became of each device. Never lets a
//! device go itself.

pub(crate) mod turns;

#[cfg(test)]
mod tests;

use protocol_types::{AccountName, CommandState, EndpointName, JobState, UnixSeconds};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Change, CommandRow, EventDraft, Filter, RequestKey, ServiceWide, StoreError, commands,
    error::cannot,
    events, idempotency,
    numbered::Numbered,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// A job to make.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob<'a> {
    /// What kind, as the device reads it.
    pub kind: &'a str,
    /// Which devices.
    pub filter: &'a Filter,
    /// What each device is told, as the service writes it.
    pub request: &'a str,
    /// Devices that are at it at a time.
    pub concurrency: u32,
    /// Devices that are told in a minute.
    pub per_minute: u32,
    /// When devices that have not ended by then are given up.
    pub deadline: UnixSeconds,
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// Its number in the account.
    pub number: u64,
    /// What kind.
    pub kind: String,
    /// Which devices.
    pub filter: Filter,
    /// What each device is told.
    pub request: String,
    /// Devices that are at it at a time.
    pub concurrency: u64,
    /// Devices that are told in a minute.
    pub per_minute: u64,
    /// How far it is.
    pub state: JobState,
    /// Name of the last device that was chosen.
    pub position: String,
    /// When it was asked for.
    pub created: UnixSeconds,
    /// When devices that have not ended by then are given up.
    pub deadline: UnixSeconds,
    /// When it began.
    pub started: Option<UnixSeconds>,
    /// When it ended.
    pub ended: Option<UnixSeconds>,
}

/// Jobs of an account that may wait, run or pause at a time.
pub const MAX_OPEN_JOBS: u64 = 100;

impl JobRow {
    /// Its name in addresses.
    pub fn id(&self) -> String {
        format!("j-{}", self.number)
    }
}

impl Numbered for JobRow {
    const KIND: &'static str = "job";
    const PREFIX: &'static str = "j-";
    const DOING: &'static str = "read a job";
    const TABLE: &'static str = "jobs";
    const COLUMNS: &'static str =
        "number, kind, filter, request, concurrency, per_minute, state, position, created, deadline, started, ended";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = Self::DOING;
        let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        let optional = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
        let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
        Ok(Self {
            number: number("number")?,
            kind: text("kind")?,
            filter: formed(row, doing, ("jobs", "filter"))?,
            request: text("request")?,
            concurrency: number("concurrency")?,
            per_minute: number("per_minute")?,
            state: formed(row, doing, ("jobs", "state"))?,
            position: text("position")?,
            created: UnixSeconds(number("created")?),
            deadline: UnixSeconds(number("deadline")?),
            started: optional("started")?.map(time),
            ended: optional("ended")?.map(time),
        })
    }
}

impl AccountScope {
    /// Asks for a job. With a key that was used before nothing is made and the earlier job is the answer.
    pub async fn create_job(
        &self,
        wanted: &NewJob<'_>,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<JobRow, StoreError> {
        let mut tx = self.write().await?;
        let number = self.next_number(&mut tx, "last_job").await?;
        if let Some(earlier) = idempotency::claim_number(&mut tx, self, key, number, now).await? {
            drop(tx);
            return self.job(earlier).await;
        }
        self.must_have_room::<JobRow>(&mut tx, ("jobs of an account that have not ended", MAX_OPEN_JOBS)).await?;
        sqlx::query(
            "INSERT INTO jobs (account, number, kind, filter, request, concurrency, per_minute, state, created, deadline)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'waiting', $8, $9)",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(wanted.kind)
        .bind(wanted.filter.to_string())
        .bind(wanted.request)
        .bind(i64::from(wanted.concurrency))
        .bind(i64::from(wanted.per_minute))
        .bind(to_sql(now.0))
        .bind(to_sql(wanted.deadline.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("make a job"))?;
        let data = json!({ "kind": wanted.kind, "filter": wanted.filter.to_string() });
        self.tell_job(&mut tx, ("job.created", number), data, now).await?;
        tx.commit().await?;
        self.job(number).await
    }

    async fn tell_job(
        &self,
        tx: &mut Transaction,
        (kind, number): (&str, u64),
        data: serde_json::Value,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        tx.changed(Change::Job(self.account.clone(), number));
        events::append(tx, self, now, EventDraft { kind, subject: format!("jobs/j-{number}"), data }).await
    }

    /// One job.
    pub async fn job(&self, number: u64) -> Result<JobRow, StoreError> {
        self.numbered(number).await
    }

    /// At most `limit` jobs, the newest first, before number `before`.
    pub async fn jobs_before(&self, before: Option<u64>, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        self.numbered_before(before, limit).await
    }

    /// How many devices of a job are how far.
    pub async fn job_counts(&self, number: u64) -> Result<Vec<(CommandState, u64)>, StoreError> {
        let doing = "count the devices of a job";
        let rows = sqlx::query(
            "SELECT state, COUNT(*) AS devices FROM commands WHERE account = $1 AND job = $2 GROUP BY state",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let devices: i64 = row.try_get("devices").map_err(cannot(doing))?;
                Ok((formed(row, doing, ("commands", "state"))?, from_sql(devices)))
            })
            .collect()
    }

    /// At most `limit` devices of a job whose command comes after number `after`, of one state if that is asked for.
    pub async fn job_devices_after(
        &self,
        number: u64,
        state: Option<CommandState>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<CommandRow>, StoreError> {
        let only = state.map(|state| format!("AND state = '{}'", state.as_str())).unwrap_or_default();
        let query = format!(
            "SELECT {} FROM commands WHERE account = $1 AND job = $2 AND number > $3 {only} ORDER BY number LIMIT $4",
            commands::COLUMNS
        );
        let rows = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(to_sql(number))
            .bind(to_sql(after))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list the devices of a job"))?;
        rows.iter().map(commands::read).collect()
    }

    /// The part of one device in a job.
    pub async fn job_device(&self, number: u64, endpoint: &EndpointName) -> Result<CommandRow, StoreError> {
        let query = format!(
            "SELECT {} FROM commands WHERE account = $1 AND job = $2 AND endpoint = $3 LIMIT 1",
            commands::COLUMNS
        );
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(to_sql(number))
            .bind(endpoint.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("read the device of a job"))?;
        let missing = || StoreError::NotFound { kind: "device of the job", id: endpoint.to_string() };
        row.as_ref().map_or_else(|| Err(missing()), commands::read)
    }

    /// Stops a job: no further device hears of it, and what was told goes on. A second time changes nothing; what has ended otherwise is
    /// refused.
    pub async fn cancel_job(&self, number: u64, now: UnixSeconds) -> Result<JobRow, StoreError> {
        let mut tx = self.write().await?;
        let row: JobRow = self.numbered_on(tx.sql(), number).await?;
        match row.state {
            JobState::Waiting | JobState::Running => {
                sqlx::query(
                    "UPDATE commands SET state = 'cancelled', ended = $3, held = 0
                     WHERE account = $1 AND job = $2 AND state = 'waiting' AND ended IS NULL",
                )
                .bind(self.id())
                .bind(to_sql(number))
                .bind(to_sql(now.0))
                .execute(tx.sql())
                .await
                .map_err(cannot("cancel the commands of a job"))?;
                self.end_job(&mut tx, &row, (JobState::Cancelled, None), now).await?;
                tx.commit().await?;
            }
            JobState::Cancelled => {}
            JobState::Finished | JobState::Failed => {
                let state = row.state.as_str().to_owned();
                return Err(StoreError::WrongState { kind: "job", id: row.id(), state });
            }
        }
        self.job(number).await
    }

    pub(crate) async fn end_job(
        &self,
        tx: &mut Transaction,
        row: &JobRow,
        (state, reason): (JobState, Option<&str>),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE jobs SET state = $3, ended = $4 WHERE account = $1 AND number = $2")
            .bind(self.id())
            .bind(to_sql(row.number))
            .bind(state.as_str())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("end a job"))?;
        let kind = format!("job.{}", state.as_str());
        let data = json!({ "kind": row.kind, "reason": reason });
        self.tell_job(tx, (&kind, row.number), data, now).await
    }
}

impl ServiceWide {
    /// The jobs of every account that have not ended, in the order in which they were asked for.
    pub async fn open_jobs(&self) -> Result<Vec<(AccountName, JobRow)>, StoreError> {
        self.numbered_open().await
    }

    /// Forgets at most `limit` commands of jobs that ended before `before`, with what they have brought. Answers how many.
    pub async fn forget_commands_of_jobs(&self, before: UnixSeconds, limit: u32) -> Result<u64, StoreError> {
        // The few jobs first: SQLite keeps to the order of a CROSS JOIN.
        let sql = "DELETE FROM commands WHERE (account, number) IN
                       (SELECT c.account, c.number FROM jobs j CROSS JOIN commands c
                        WHERE j.ended < $1 AND c.account = j.account AND c.job = j.number LIMIT $2)";
        self.forget("forget commands of old jobs", sql, (before, limit)).await
    }

    /// Forgets at most `limit` jobs that ended before `before` and whose commands are forgotten. Answers how many.
    pub async fn forget_jobs(&self, before: UnixSeconds, limit: u32) -> Result<u64, StoreError> {
        let sql = "DELETE FROM jobs WHERE (account, number) IN
                       (SELECT j.account, j.number FROM jobs j WHERE j.ended < $1 AND NOT EXISTS
                           (SELECT 1 FROM commands c WHERE c.account = j.account AND c.job = j.number)
                        ORDER BY j.ended LIMIT $2)";
        self.forget("forget old jobs", sql, (before, limit)).await
    }
}
