//! Commands for devices: what was asked, and how far it is. A command is on record before the device hears of it and before the answer is
//! passed on, so the end of the service at any instant neither loses one nor gives an Execute twice. Never knows what a path or a value means.

pub(crate) mod delivery;
pub(crate) mod observations;

#[cfg(test)]
mod tests;

use protocol_types::{CommandKind, CommandState, EndpointName, Standing, UnixSeconds};
use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Change, RequestKey, StoreError, devices,
    error::cannot,
    idempotency,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Commands of one device that have not ended, those of jobs apart.
pub const MAX_OPEN_COMMANDS: u64 = 32;
/// Observations of one device at a time.
pub const MAX_OBSERVATIONS: u64 = 4;

/// A command to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewCommand<'a> {
    /// What is asked.
    pub kind: CommandKind,
    /// The path that it is about.
    pub path: &'a str,
    /// The value to write, or the arguments.
    pub argument: Option<&'a str>,
    /// When it expires, if the device has not taken it; when an observation ends.
    pub deadline: UnixSeconds,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRow {
    /// Its number in the account.
    pub number: u64,
    /// The device.
    pub endpoint: EndpointName,
    /// The job that it belongs to.
    pub job: Option<u64>,
    /// What is asked.
    pub kind: CommandKind,
    /// The path that it is about.
    pub path: String,
    /// The value to write, or the arguments.
    pub argument: Option<String>,
    /// How far it is.
    pub state: CommandState,
    /// How often it was sent.
    pub tries: u64,
    /// When it was asked for.
    pub created: UnixSeconds,
    /// When it expires, if the device has not taken it; when an observation ends.
    pub deadline: UnixSeconds,
    /// When it was last sent.
    pub sent: Option<UnixSeconds>,
    /// When it ended.
    pub ended: Option<UnixSeconds>,
    /// What the device answered.
    pub result: Option<String>,
    /// Why it did not end well, as code and sentence.
    pub reason: Option<(String, String)>,
}

impl CommandRow {
    /// Its name in addresses.
    pub fn id(&self) -> String {
        format!("c-{}", self.number)
    }
}

pub(crate) const COLUMNS: &str = "number, endpoint, job, kind, path, argument, state, tries, created, deadline,
    sent, ended, result, reason_code, reason_text";

pub(crate) fn read(row: &AnyRow) -> Result<CommandRow, StoreError> {
    let doing = "read a command";
    let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
    let optional = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let text = |column| row.try_get::<Option<String>, _>(column).map_err(cannot(doing));
    Ok(CommandRow {
        number: number("number")?,
        endpoint: formed(row, doing, ("commands", "endpoint"))?,
        job: optional("job")?.map(from_sql),
        kind: formed(row, doing, ("commands", "kind"))?,
        path: text("path")?.unwrap_or_default(),
        argument: text("argument")?,
        state: formed(row, doing, ("commands", "state"))?,
        tries: number("tries")?,
        created: UnixSeconds(number("created")?),
        deadline: UnixSeconds(number("deadline")?),
        sent: optional("sent")?.map(time),
        ended: optional("ended")?.map(time),
        result: text("result")?,
        reason: text("reason_code")?.zip(text("reason_text")?),
    })
}

/// What ends, or takes back, a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending<'a> {
    pub(crate) state: CommandState,
    pub(crate) result: Option<&'a str>,
    pub(crate) reason: Option<(&'a str, &'a str)>,
}

impl AccountScope {
    /// Asks something of a device. With a key that was used before nothing is made and the earlier command is the answer.
    pub async fn create_command(
        &self,
        endpoint: &EndpointName,
        wanted: &NewCommand<'_>,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<CommandRow, StoreError> {
        let doing = "make a command";
        let mut tx = self.write().await?;
        let number = self.next_number(&mut tx, "last_command").await?;
        if let Some(earlier) = idempotency::claim_number(&mut tx, self, key, number, now).await? {
            drop(tx);
            return self.command(endpoint, earlier).await;
        }
        self.may_be_asked(&mut tx, endpoint, wanted).await?;
        sqlx::query(
            "INSERT INTO commands (account, number, endpoint, kind, path, argument, state, created, deadline)
             VALUES ($1, $2, $3, $4, $5, $6, 'waiting', $7, $8)",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(endpoint.as_str())
        .bind(wanted.kind.as_str())
        .bind(wanted.path)
        .bind(wanted.argument)
        .bind(to_sql(now.0))
        .bind(to_sql(wanted.deadline.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        // A value may be anybody's secret: what was written is told to nobody.
        let data = json!({ "command": format!("c-{number}"), "kind": wanted.kind.as_str(), "path": wanted.path });
        if wanted.kind == CommandKind::Read {
            // A question changes nothing; the audit log has it all the same.
            tx.note("device.command_created", &format!("devices/{endpoint}"), &data);
        } else {
            self.tell(&mut tx, endpoint, ("device.command_created", data), now).await?;
        }
        tx.changed(self.command_changed(endpoint));
        tx.commit().await?;
        self.command(endpoint, number).await
    }

    /// Refuses a command to a device that would never hear of it, or that has enough of them.
    async fn may_be_asked(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        wanted: &NewCommand<'_>,
    ) -> Result<(), StoreError> {
        let doing = "look how a device stands";
        let row = sqlx::query(
            "SELECT d.standing AS standing,
                 (SELECT COUNT(*) FROM commands c WHERE c.account = d.account AND c.endpoint = d.endpoint
                      AND c.ended IS NULL AND c.job IS NULL) AS open,
                 (SELECT COUNT(*) FROM commands c WHERE c.account = d.account AND c.endpoint = d.endpoint
                      AND c.ended IS NULL AND c.kind = 'observe') AS observations,
                 (SELECT COUNT(*) FROM commands c WHERE c.account = d.account AND c.endpoint = d.endpoint
                      AND c.ended IS NULL AND c.kind = 'observe' AND c.path = $3) AS same
             FROM devices d WHERE d.account = $1 AND d.endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(wanted.path)
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else { return Err(StoreError::NotFound { kind: "device", id: endpoint.to_string() }) };
        let standing = devices::standing(&row, doing)?;
        if standing != Standing::Active {
            let state = standing.as_str().to_owned();
            return Err(StoreError::WrongState { kind: "device", id: endpoint.to_string(), state });
        }
        let count = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        if count("open")? >= MAX_OPEN_COMMANDS {
            return Err(StoreError::TooMany { what: "open commands of a device", most: MAX_OPEN_COMMANDS });
        }
        if wanted.kind != CommandKind::Observe {
            return Ok(());
        }
        if count("same")? > 0 {
            return Err(StoreError::Exists { kind: "observation", id: wanted.path.to_owned() });
        }
        if count("observations")? >= MAX_OBSERVATIONS {
            return Err(StoreError::TooMany { what: "observations of a device", most: MAX_OBSERVATIONS });
        }
        Ok(())
    }

    /// One command of a device.
    pub async fn command(&self, endpoint: &EndpointName, number: u64) -> Result<CommandRow, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("read a command"))?;
        let row = self.command_on(&mut connection, number).await?;
        row.filter(|row| row.endpoint == *endpoint).ok_or_else(|| no_command(number))
    }

    pub(crate) async fn command_on(
        &self,
        sql: &mut AnyConnection,
        number: u64,
    ) -> Result<Option<CommandRow>, StoreError> {
        let query = format!("SELECT {COLUMNS} FROM commands WHERE account = $1 AND number = $2");
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(to_sql(number))
            .fetch_optional(sql)
            .await
            .map_err(cannot("read a command"))?;
        row.as_ref().map(read).transpose()
    }

    /// At most `limit` commands of a device, the newest first, before number `before`.
    pub async fn commands_before(
        &self,
        endpoint: &EndpointName,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<CommandRow>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM commands WHERE account = $1 AND endpoint = $2 AND number < $3
             ORDER BY number DESC LIMIT $4"
        );
        let rows = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(before.map_or(i64::MAX, to_sql))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list the commands of a device"))?;
        rows.iter().map(read).collect()
    }

    /// Takes a command back that the device has not heard of, or ends an observation. A second time changes nothing; what was sent or has
    /// ended otherwise is refused.
    pub async fn cancel_command(
        &self,
        endpoint: &EndpointName,
        number: u64,
        now: UnixSeconds,
    ) -> Result<CommandRow, StoreError> {
        let mut tx = self.write().await?;
        let row = self.command_on(tx.sql(), number).await?.filter(|row| row.endpoint == *endpoint);
        let row = row.ok_or_else(|| no_command(number))?;
        match (row.state, row.kind) {
            (CommandState::Waiting, _) | (CommandState::Active, CommandKind::Observe) => {
                let ending = Ending { state: CommandState::Cancelled, result: None, reason: None };
                self.end_command_in(&mut tx, &row, &ending, now).await?;
                tx.commit().await?;
            }
            (CommandState::Cancelled, _) => {}
            _ => {
                let state = row.state.as_str().to_owned();
                return Err(StoreError::WrongState { kind: "command", id: row.id(), state });
            }
        }
        self.command(endpoint, number).await
    }

    /// Ends a command and tells of it. Questions end without an event.
    pub(crate) async fn end_command_in(
        &self,
        tx: &mut Transaction,
        row: &CommandRow,
        ending: &Ending<'_>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let (code, text) = ending.reason.unzip();
        sqlx::query(
            "UPDATE commands SET state = $3, result = COALESCE($4, result), reason_code = $5, reason_text = $6, ended = $7,
                 held = 0, session = NULL
             WHERE account = $1 AND number = $2",
        )
        .bind(self.id())
        .bind(to_sql(row.number))
        .bind(ending.state.as_str())
        .bind(ending.result)
        .bind(code)
        .bind(text)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("end a command"))?;
        let data = json!({
            "command": row.id(), "kind": row.kind.as_str(), "path": row.path, "state": ending.state.as_str(),
            "job": row.job.map(|job| format!("j-{job}")), "reason": code,
        });
        tx.changed(self.command_changed(&row.endpoint));
        if let Some(job) = row.job {
            tx.changed(Change::Job(self.account.clone(), job));
        }
        if row.kind == CommandKind::Read {
            tx.note("device.command_ended", &format!("devices/{}", row.endpoint), &data);
            return Ok(());
        }
        self.tell(tx, &row.endpoint, ("device.command_ended", data), now).await
    }

    /// What to note when a command of a device changed.
    pub(crate) fn command_changed(&self, endpoint: &EndpointName) -> Change {
        Change::Command(self.account.clone(), endpoint.clone())
    }
}

pub(crate) fn no_command(number: u64) -> StoreError {
    StoreError::NotFound { kind: "command", id: format!("c-{number}") }
}
