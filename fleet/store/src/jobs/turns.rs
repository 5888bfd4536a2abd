//! Whose turn it is in a job. The devices are chosen once, in the order of their names; their commands wait until the job lets them go, a few
//! at a time. Each step is one transaction, so a job that was cut off at any instant asks each device once.

use protocol_types::{EndpointName, JobState, UnixSeconds};
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Change, JobRow, StoreError,
    devices::bound,
    error::cannot,
    filter::Place,
    numbers::{from_sql, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Where the part of a job is written on a device.
const PATH: &str = "/26244/0";
/// A device that was let go and has not taken its part within so many seconds gives its turn to another, if it is away.
const TURN_S: u64 = 30;

impl AccountScope {
    /// Chooses at most `most` devices more. Answers whether there may be others.
    pub async fn choose_devices(&self, number: u64, most: u32, now: UnixSeconds) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let row: JobRow = self.numbered_on(tx.sql(), number).await?;
        if row.state != JobState::Waiting {
            return Ok(false);
        }
        let devices = match self.next_for_job(&mut tx, &row, most, now).await {
            Ok(devices) => devices,
            Err(error @ (StoreError::FilterTooLarge { .. } | StoreError::GroupInItself { .. })) => {
                self.end_job(&mut tx, &row, (JobState::Failed, Some(&error.to_string())), now).await?;
                tx.commit().await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        for endpoint in &devices {
            let command = self.next_number(&mut tx, "last_command").await?;
            sqlx::query(
                "INSERT INTO commands (account, number, endpoint, job, kind, path, argument, state, held, created, deadline)
                 VALUES ($1, $2, $3, $4, 'job', $5, $6, 'waiting', 1, $7, $8)",
            )
            .bind(self.id())
            .bind(to_sql(command))
            .bind(endpoint.as_str())
            .bind(to_sql(number))
            .bind(PATH)
            .bind(row.request.as_str())
            .bind(to_sql(row.created.0))
            .bind(to_sql(row.deadline.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("make the command of a job"))?;
        }
        let is_end = devices.len() < usize::try_from(most).unwrap_or(usize::MAX);
        let position = devices.last().map_or(row.position.as_str(), EndpointName::as_str);
        let state = if is_end { JobState::Running } else { JobState::Waiting };
        sqlx::query(
            "UPDATE jobs SET position = $3, state = $4, started = COALESCE(started, $5) WHERE account = $1 AND number = $2",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(position)
        .bind(state.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("note the devices of a job"))?;
        tx.changed(Change::Job(self.account.clone(), number));
        tx.commit().await?;
        Ok(!is_end)
    }

    async fn next_for_job(
        &self,
        tx: &mut Transaction,
        row: &JobRow,
        most: u32,
        now: UnixSeconds,
    ) -> Result<Vec<EndpointName>, StoreError> {
        let doing = "look for the devices of a job";
        let filter = self.resolved(tx.sql(), &row.filter).await?;
        let clause = filter.clause(Place { report: "r", first: 4, now });
        let sql = format!(
            "SELECT d.endpoint FROM devices d
             LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
             WHERE d.account = $1 AND d.endpoint > $2 AND d.standing = 'active' AND {} ORDER BY d.endpoint LIMIT $3",
            clause.sql
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(row.position.as_str()).bind(i64::from(most));
        let rows = bound(query, clause.binds).fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("devices", "endpoint"))).collect()
    }

    /// Lets further devices of a running job go that are connected, as many as its bounds allow, and ends it when every device has ended.
    /// Answers how many were let go.
    pub async fn move_job(&self, number: u64, now: UnixSeconds) -> Result<usize, StoreError> {
        let mut tx = self.write().await?;
        let row: JobRow = self.numbered_on(tx.sql(), number).await?;
        if row.state != JobState::Running {
            return Ok(0);
        }
        self.take_turns_back(&mut tx, number, now).await?;
        let doing = "count the devices that are at a job";
        let counts = sqlx::query(
            "SELECT COUNT(*) AS open,
                 COALESCE(SUM(CASE WHEN held = 0 THEN 1 ELSE 0 END), 0) AS let_go
             FROM commands WHERE account = $1 AND job = $2 AND ended IS NULL",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let count = |row: &AnyRow, column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        if count(&counts, "open")? == 0 {
            self.end_job(&mut tx, &row, (JobState::Finished, None), now).await?;
            tx.commit().await?;
            return Ok(0);
        }
        let lately =
            sqlx::query("SELECT COUNT(*) AS lately FROM commands WHERE account = $1 AND job = $2 AND admitted > $3")
                .bind(self.id())
                .bind(to_sql(number))
                .bind(to_sql(now.0.saturating_sub(60)))
                .fetch_one(tx.sql())
                .await
                .map_err(cannot(doing))?;
        let at_a_time = row.concurrency.saturating_sub(count(&counts, "let_go")?);
        let in_a_minute = row.per_minute.saturating_sub(count(&lately, "lately")?);
        let let_go = self.let_go(&mut tx, number, at_a_time.min(in_a_minute), now).await?;
        tx.commit().await?;
        Ok(let_go)
    }

    /// Devices that went away before they took their part wait again for their turn.
    async fn take_turns_back(&self, tx: &mut Transaction, number: u64, now: UnixSeconds) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE commands SET held = 1, admitted = NULL
             WHERE account = $1 AND job = $2 AND state = 'waiting' AND held = 0 AND ended IS NULL AND admitted <= $3
                 AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.account = commands.account
                     AND d.endpoint = commands.endpoint AND d.connected = 1)",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(to_sql(now.0.saturating_sub(TURN_S)))
        .execute(tx.sql())
        .await
        .map(drop)
        .map_err(cannot("take the turn of a device back"))
    }

    async fn let_go(
        &self,
        tx: &mut Transaction,
        number: u64,
        most: u64,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        let doing = "let devices of a job go";
        if most == 0 {
            return Ok(0);
        }
        let rows = sqlx::query(
            "SELECT c.number AS number, c.endpoint AS endpoint FROM commands c
             JOIN devices d ON d.account = c.account AND d.endpoint = c.endpoint
             WHERE c.account = $1 AND c.job = $2 AND c.held = 1 AND c.ended IS NULL AND d.connected = 1
                 AND d.standing = 'active' ORDER BY c.number LIMIT $3",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(to_sql(most))
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(doing))?;
        for row in &rows {
            let command: i64 = row.try_get("number").map_err(cannot(doing))?;
            let endpoint: EndpointName = formed(row, doing, ("commands", "endpoint"))?;
            sqlx::query("UPDATE commands SET held = 0, admitted = $3 WHERE account = $1 AND number = $2")
                .bind(self.id())
                .bind(command)
                .bind(to_sql(now.0))
                .execute(tx.sql())
                .await
                .map_err(cannot(doing))?;
            tx.changed(self.command_changed(&endpoint));
        }
        Ok(rows.len())
    }
}
