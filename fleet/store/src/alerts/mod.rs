//! Alerts as people see them: what a rule has found and nobody has seen end. Raises none; `rounds` does.

pub(crate) mod rounds;
pub(crate) mod rules;
pub(crate) mod sights;
pub(crate) mod silences;

#[cfg(test)]
mod tests;

use protocol_types::{AlertState, EndpointName, GroupName, Severity, UnixSeconds};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, AlertCondition, EventDraft, Filter, StoreError,
    error::cannot,
    events,
    numbered::Numbered,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// An alert as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRow {
    /// Its number in the account: 1, 2, 3 and so on.
    pub number: u64,
    /// The rule that found it.
    pub rule: GroupName,
    /// The device that it is about; without it, the account.
    pub device: Option<EndpointName>,
    /// How bad it is.
    pub severity: Severity,
    /// How far it is.
    pub state: AlertState,
    /// From when on the condition held.
    pub since: UnixSeconds,
    /// When it was raised.
    pub raised: Option<UnixSeconds>,
    /// When an event last told of it.
    pub told: Option<UnixSeconds>,
    /// When it was resolved.
    pub resolved: Option<UnixSeconds>,
    /// When somebody said that they know, who, and what they said.
    pub acknowledged: Option<(UnixSeconds, String, String)>,
}

impl AlertRow {
    /// Its name in addresses.
    pub fn id(&self) -> String {
        format!("al-{}", self.number)
    }
}

impl Numbered for AlertRow {
    const KIND: &'static str = "alert";
    const PREFIX: &'static str = "al-";
    const DOING: &'static str = "read an alert";
    const TABLE: &'static str = "alerts";
    const COLUMNS: &'static str =
        "number, rule, subject, severity, state, since, raised, told, resolved, acknowledged, acknowledged_by, note";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = Self::DOING;
        let optional = |column| row.try_get::<Option<i64>, _>(column).map(|at| at.map(time)).map_err(cannot(doing));
        let text =
            |column| row.try_get::<Option<String>, _>(column).map(Option::unwrap_or_default).map_err(cannot(doing));
        let subject = text("subject")?;
        let damaged = |_| StoreError::Damaged { table: "alerts", column: "subject" };
        let (by, note) = (text("acknowledged_by")?, text("note")?);
        Ok(Self {
            number: from_sql(row.try_get("number").map_err(cannot(doing))?),
            rule: formed(row, doing, ("alerts", "rule"))?,
            device: if subject.is_empty() { None } else { Some(EndpointName::new(subject).map_err(damaged)?) },
            severity: formed(row, doing, ("alerts", "severity"))?,
            state: formed(row, doing, ("alerts", "state"))?,
            since: time(row.try_get("since").map_err(cannot(doing))?),
            raised: optional("raised")?,
            told: optional("told")?,
            resolved: optional("resolved")?,
            acknowledged: optional("acknowledged")?.map(|at| (at, by, note)),
        })
    }
}

/// What an event about an alert is about.
pub(crate) fn subject_of(number: u64, subject: &str) -> String {
    if subject.is_empty() { format!("alerts/al-{number}") } else { format!("alerts/al-{number}/devices/{subject}") }
}

impl AccountScope {
    /// Ends every alert of a rule that looks no longer.
    pub(crate) async fn end_alerts_of(
        &self,
        tx: &mut Transaction,
        rule: &GroupName,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "resolve the alerts of a rule";
        sqlx::query("DELETE FROM alerts WHERE account = $1 AND rule = $2 AND state = 'pending'")
            .bind(self.id())
            .bind(rule.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let rows = sqlx::query(
            "UPDATE alerts SET state = 'resolved', resolved = $3 WHERE account = $1 AND rule = $2 AND state = 'raised'
             RETURNING number, subject, told",
        )
        .bind(self.id())
        .bind(rule.as_str())
        .bind(to_sql(now.0))
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(doing))?;
        for row in &rows {
            if row.try_get::<Option<i64>, _>("told").map_err(cannot(doing))?.is_some() {
                let number = from_sql(row.try_get("number").map_err(cannot(doing))?);
                let subject: String = row.try_get("subject").map_err(cannot(doing))?;
                let data = json!({ "rule": rule, "because": "the rule looks no longer" });
                let draft = EventDraft { kind: "alert.resolved", subject: subject_of(number, &subject), data };
                events::append(tx, self, now, draft).await?;
            }
        }
        Ok(())
    }

    /// One alert.
    pub async fn alert(&self, number: u64) -> Result<AlertRow, StoreError> {
        self.numbered(number).await
    }

    /// At most `limit` alerts, the newest first, before the one of number `before`; of one state and one rule if they are named.
    pub async fn alerts_before(
        &self,
        (state, rule): (Option<AlertState>, Option<&GroupName>),
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AlertRow>, StoreError> {
        let sql = format!(
            "SELECT {} FROM alerts WHERE account = $1 AND number < $2 AND ($4 = '' OR state = $4)
             AND ($5 = '' OR rule = $5) ORDER BY number DESC LIMIT $3",
            AlertRow::COLUMNS
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(before.map_or(i64::MAX, to_sql))
            .bind(i64::from(limit))
            .bind(state.map_or("", AlertState::as_str))
            .bind(rule.map_or("", GroupName::as_str))
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list alerts"))?;
        rows.iter().map(AlertRow::read).collect()
    }

    /// Notes that somebody knows of an alert; a second time changes nothing.
    pub async fn acknowledge_alert(
        &self,
        number: u64,
        (by, note): (&str, &str),
        now: UnixSeconds,
    ) -> Result<AlertRow, StoreError> {
        let doing = "acknowledge an alert";
        let row = self.alert(number).await?;
        if row.acknowledged.is_some() {
            return Ok(row);
        }
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE alerts SET acknowledged = $3, acknowledged_by = $4, note = $5
             WHERE account = $1 AND number = $2 AND state = 'raised' AND acknowledged IS NULL",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(to_sql(now.0))
        .bind(by)
        .bind(note)
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::WrongState { kind: "alert", id: row.id(), state: row.state.to_string() });
        }
        let subject = row.device.as_ref().map_or("", EndpointName::as_str);
        let data = json!({ "rule": row.rule, "by": by, "note": note });
        let draft = EventDraft { kind: "alert.acknowledged", subject: subject_of(number, subject), data };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.alert(number).await
    }

    /// How many devices a rule would have an alert for now, however many may be open; `None` for a rule that counts events.
    pub async fn alert_rule_matches(
        &self,
        (filter, condition): (&Filter, &AlertCondition),
        now: UnixSeconds,
    ) -> Result<Option<u64>, StoreError> {
        match condition.as_filter() {
            Some(condition) => self.count_devices(&filter.clone().and(condition), now).await.map(Some),
            None => Ok(None),
        }
    }
}
