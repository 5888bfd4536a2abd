//! The way of a command to its device and back. Each step is one transaction: that it goes out is on record before it does.

use protocol_types::{AccountName, CommandKind, CommandState, EndpointName, UnixSeconds};
use sqlx::AssertSqlSafe;

use crate::{
    AccountScope, CommandRow, ServiceWide, StoreError,
    commands::{COLUMNS, Ending, read},
    error::cannot,
    numbers::to_sql,
    rows::formed,
    transaction::Transaction,
};

/// How often a command goes out whose answer does not come.
pub const MAX_TRIES: u64 = 3;
/// So many seconds after its deadline nobody waits for the answer to a command that was sent before it.
const ANSWER_S: u64 = 120;

/// What came of a command that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The device has done it, and answered this.
    Done(Option<String>),
    /// The device has taken it and is at it; an observation begins with this.
    Taken(Option<String>),
    /// The device refused it or failed at it: code and sentence.
    Failed(String, String),
    /// Nothing of it has reached the device.
    NotSent,
    /// No answer came: the device may have done it or not.
    NoAnswer,
}

/// What happens to a command whose answer did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterSilence {
    Again,
    End(CommandState),
}

/// An Execute that may have reached the device is never sent again; a question or a value may be. What the device itself tells apart,
/// its part of a job, goes out until the deadline, and an observation that a device has begun once until its end.
const fn after_silence(row: &CommandRow, reached: bool, now: UnixSeconds) -> AfterSilence {
    let overdue = row.deadline.0 <= now.0;
    match row.kind {
        CommandKind::Execute if reached => AfterSilence::End(CommandState::Unknown),
        _ if overdue => AfterSilence::End(overdue_state(row)),
        CommandKind::Job => AfterSilence::Again,
        CommandKind::Observe if row.result.is_some() => AfterSilence::Again,
        _ if row.tries >= MAX_TRIES => AfterSilence::End(CommandState::Failed),
        _ => AfterSilence::Again,
    }
}

/// How a command ends whose deadline has come.
const fn overdue_state(row: &CommandRow) -> CommandState {
    match (row.kind, row.state) {
        // It has brought what it could.
        (CommandKind::Observe, _) if row.result.is_some() => CommandState::Done,
        (CommandKind::Execute, CommandState::Sent) | (CommandKind::Job, CommandState::Active) => CommandState::Unknown,
        _ => CommandState::Expired,
    }
}

const NO_ANSWER: (&str, &str) = ("no_answer", "the device took the request and did not answer in time");
const LOST: (&str, &str) =
    ("answer_lost", "the answer of the device was lost; it may have done it, and is not asked again");
const EXPIRED: (&str, &str) = ("deadline", "the device did not take it before the deadline");

/// Why a command ended so without the device having said anything.
const fn why(state: CommandState) -> Option<(&'static str, &'static str)> {
    match state {
        CommandState::Unknown => Some(LOST),
        CommandState::Expired => Some(EXPIRED),
        CommandState::Failed => Some(NO_ANSWER),
        _ => None,
    }
}

impl AccountScope {
    /// The oldest command that the device may hear now; it counts as sent on this connection when this returns.
    pub async fn begin_command(
        &self,
        endpoint: &EndpointName,
        session: u64,
        now: UnixSeconds,
    ) -> Result<Option<CommandRow>, StoreError> {
        let doing = "take up a command";
        // Most looks find nothing, and shall not stand in the way of who writes.
        let due =
            "account = $1 AND endpoint = $2 AND ended IS NULL AND state = 'waiting' AND held = 0 AND deadline > $3
             AND (kind <> 'job' OR NOT EXISTS (SELECT 1 FROM commands a WHERE a.account = commands.account
                 AND a.endpoint = commands.endpoint AND a.kind = 'job' AND a.state = 'active'))";
        let any = sqlx::query(AssertSqlSafe(format!("SELECT number FROM commands WHERE {due} LIMIT 1")))
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(to_sql(now.0))
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(doing))?;
        if any.is_none() {
            return Ok(None);
        }
        let mut tx = self.write().await?;
        let row =
            sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM commands WHERE {due} ORDER BY number LIMIT 1")))
                .bind(self.id())
                .bind(endpoint.as_str())
                .bind(to_sql(now.0))
                .fetch_optional(tx.sql())
                .await
                .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(None) };
        let number = read(&row)?.number;
        sqlx::query(
            "UPDATE commands SET state = 'sent', session = $3, tries = tries + 1, sent = $4
             WHERE account = $1 AND number = $2",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(to_sql(session))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let row = self.command_on(tx.sql(), number).await?;
        tx.changed(self.command_changed(endpoint));
        tx.commit().await?;
        Ok(row)
    }

    /// Records what came of a command that was sent on this connection; what was taken up anew meanwhile stays as it is. Answers whether it
    /// was the connection's.
    pub async fn command_moved(
        &self,
        (number, session): (u64, u64),
        came: &Delivered,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let Some(row) = self.sent_on(&mut tx, (number, session)).await? else { return Ok(false) };
        match came {
            Delivered::Done(result) => {
                let ending = Ending { state: CommandState::Done, result: result.as_deref(), reason: None };
                self.end_command_in(&mut tx, &row, &ending, now).await?;
            }
            Delivered::Failed(code, text) => {
                let ending = Ending { state: CommandState::Failed, result: None, reason: Some((code, text)) };
                self.end_command_in(&mut tx, &row, &ending, now).await?;
            }
            Delivered::Taken(result) => {
                sqlx::query(
                    "UPDATE commands SET state = 'active', result = COALESCE($3, result) WHERE account = $1 AND number = $2",
                )
                .bind(self.id())
                .bind(to_sql(number))
                .bind(result.as_deref())
                .execute(tx.sql())
                .await
                .map_err(cannot("note that a device took a command"))?;
                tx.changed(self.command_changed(&row.endpoint));
            }
            Delivered::NotSent => self.silent(&mut tx, &row, false, now).await?,
            Delivered::NoAnswer => self.silent(&mut tx, &row, true, now).await?,
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The command, if it is under way on this connection.
    pub(crate) async fn sent_on(
        &self,
        tx: &mut Transaction,
        (number, session): (u64, u64),
    ) -> Result<Option<CommandRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM commands
             WHERE account = $1 AND number = $2 AND session = $3 AND state IN ('sent', 'active')"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(to_sql(number))
            .bind(to_sql(session))
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot("look for a command under way"))?;
        row.as_ref().map(read).transpose()
    }

    /// Goes on with a command whose answer did not come.
    async fn silent(
        &self,
        tx: &mut Transaction,
        row: &CommandRow,
        reached: bool,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        match after_silence(row, reached, now) {
            AfterSilence::Again => {
                sqlx::query("UPDATE commands SET state = 'waiting', session = NULL WHERE account = $1 AND number = $2")
                    .bind(self.id())
                    .bind(to_sql(row.number))
                    .execute(tx.sql())
                    .await
                    .map_err(cannot("put a command back"))?;
                tx.changed(self.command_changed(&row.endpoint));
                Ok(())
            }
            AfterSilence::End(state) => {
                self.end_command_in(tx, row, &Ending { state, result: None, reason: why(state) }, now).await
            }
        }
    }

    /// Goes on with what was under way on earlier connections of a device that has registered anew: nobody waits for those answers.
    pub async fn commands_cut_off(&self, endpoint: &EndpointName, now: UnixSeconds) -> Result<usize, StoreError> {
        let doing = "look for commands that were cut off";
        let sql = format!(
            "SELECT {COLUMNS} FROM commands WHERE account = $1 AND endpoint = $2 AND ended IS NULL
             AND state IN ('sent', 'active')"
        );
        let query = || sqlx::query(AssertSqlSafe(sql.clone())).bind(self.id()).bind(endpoint.as_str());
        if query().fetch_optional(self.readers()).await.map_err(cannot(doing))?.is_none() {
            return Ok(0);
        }
        let mut tx = self.write().await?;
        let rows = query().fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        for row in &rows {
            self.silent(&mut tx, &read(row)?, true, now).await?;
        }
        tx.commit().await?;
        Ok(rows.len())
    }

    /// The part of a job that a device is at, or may be, on this connection.
    pub async fn job_under_way(&self, endpoint: &EndpointName, session: u64) -> Result<Option<CommandRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM commands WHERE account = $1 AND endpoint = $2 AND ended IS NULL AND kind = 'job'
             AND session = $3 AND state IN ('sent', 'active') ORDER BY number LIMIT 1"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(to_sql(session))
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("look for a job under way"))?;
        row.as_ref().map(read).transpose()
    }

    /// Whether a command is still under way on this connection.
    pub async fn goes_on(&self, (number, session): (u64, u64)) -> Result<bool, StoreError> {
        sqlx::query(
            "SELECT number FROM commands
             WHERE account = $1 AND number = $2 AND session = $3 AND state IN ('sent', 'active')",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(to_sql(session))
        .fetch_optional(self.readers())
        .await
        .map(|row| row.is_some())
        .map_err(cannot("look for a command under way"))
    }
}

impl ServiceWide {
    /// Goes on with everything that was under way when the service ended: an Execute ends as unknown, the rest is sent again.
    pub async fn commands_cut_off(&self, now: UnixSeconds) -> Result<usize, StoreError> {
        let doing = "look for commands that were cut off";
        let sql = format!("SELECT account, {COLUMNS} FROM commands WHERE state IN ('sent', 'active')");
        let mut tx = self.store.write().await?;
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        for row in &rows {
            let account: AccountName = formed(row, doing, ("commands", "account"))?;
            self.store.account(&account).silent(&mut tx, &read(row)?, true, now).await?;
        }
        tx.commit().await?;
        Ok(rows.len())
    }

    /// Ends at most `limit` commands whose deadline has come. Answers how many.
    pub async fn end_overdue_commands(&self, limit: u32, now: UnixSeconds) -> Result<usize, StoreError> {
        let doing = "look for commands that are overdue";
        let sql = format!(
            "SELECT account, {COLUMNS} FROM commands WHERE ended IS NULL
             AND deadline <= $1 AND (state <> 'sent' OR deadline <= $2) ORDER BY deadline LIMIT $3"
        );
        let query = || {
            sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(to_sql(now.0))
                .bind(to_sql(now.0.saturating_sub(ANSWER_S)))
                .bind(i64::from(limit))
        };
        if query().fetch_optional(self.store.readers()).await.map_err(cannot(doing))?.is_none() {
            return Ok(0);
        }
        let mut tx = self.store.write().await?;
        let rows = query().fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        for row in &rows {
            let account: AccountName = formed(row, doing, ("commands", "account"))?;
            let row = read(row)?;
            let state = overdue_state(&row);
            let ending = Ending { state, result: None, reason: why(state) };
            self.store.account(&account).end_command_in(&mut tx, &row, &ending, now).await?;
        }
        tx.commit().await?;
        Ok(rows.len())
    }

    /// Forgets at most `limit` commands that ended before `before`. Answers how many.
    pub async fn forget_commands(&self, before: UnixSeconds, limit: u32) -> Result<u64, StoreError> {
        let sql = "DELETE FROM commands WHERE (account, number) IN
                       (SELECT account, number FROM commands WHERE ended < $1 AND job IS NULL ORDER BY ended LIMIT $2)";
        self.forget("forget old commands", sql, (before, limit)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000);

    fn row(kind: CommandKind, tries: u64) -> CommandRow {
        CommandRow {
            number: 1,
            endpoint: EndpointName::new("gate-1").unwrap(),
            job: None,
            kind,
            path: "/3/0".into(),
            argument: None,
            state: CommandState::Sent,
            tries,
            created: UnixSeconds(0),
            deadline: UnixSeconds(2_000),
            sent: None,
            ended: None,
            result: None,
            reason: None,
        }
    }

    #[test]
    fn an_execute_that_may_have_reached_the_device_is_never_sent_again() {
        for tries in 0..5 {
            for now in [NOW, UnixSeconds(3_000)] {
                let then = after_silence(&row(CommandKind::Execute, tries), true, now);
                assert_eq!(then, AfterSilence::End(CommandState::Unknown));
            }
        }
        assert_eq!(after_silence(&row(CommandKind::Execute, 1), false, NOW), AfterSilence::Again);
    }

    #[test]
    fn a_question_is_sent_again_a_few_times_and_a_part_of_a_job_until_the_deadline() {
        for kind in [CommandKind::Read, CommandKind::Write, CommandKind::Observe] {
            assert_eq!(after_silence(&row(kind, 1), true, NOW), AfterSilence::Again);
            let then = after_silence(&row(kind, MAX_TRIES), true, NOW);
            assert_eq!(then, AfterSilence::End(CommandState::Failed));
            let then = after_silence(&row(kind, 1), true, UnixSeconds(2_000));
            assert_eq!(then, AfterSilence::End(CommandState::Expired));
        }
        assert_eq!(after_silence(&row(CommandKind::Job, 900), true, NOW), AfterSilence::Again);
    }

    #[test]
    fn an_observation_that_has_begun_goes_on_over_any_number_of_connections_and_ends_well() {
        let begun = CommandRow { result: Some("[]".into()), ..row(CommandKind::Observe, 40) };
        assert_eq!(after_silence(&begun, true, NOW), AfterSilence::Again);
        assert_eq!(after_silence(&begun, true, UnixSeconds(2_000)), AfterSilence::End(CommandState::Done));
    }
}
