//! Silences: for some time alerts of a rule, or about some devices, are not told of. They are raised all the same.

use protocol_types::{GroupName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, AlertRuleRow, EventDraft, Filter, RequestKey, StoreError,
    error::cannot,
    events, idempotency,
    named::Named,
    numbered::Numbered,
    numbers::{from_sql, time, to_sql},
    rows::formed,
};

/// Most silences of an account that are not over.
const MAX_SILENCES: u64 = 100;

/// A silence.
#[derive(Clone, Debug, PartialEq)]
pub struct SilenceRow {
    /// Its number in the account: 1, 2, 3 and so on.
    pub number: u64,
    /// The rule whose alerts are meant; without it, every rule.
    pub rule: Option<GroupName>,
    /// The devices that are meant; empty for all, and for alerts that are about no device.
    pub filter: Filter,
    /// When it is over.
    pub until: UnixSeconds,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub made_by: String,
    /// When it was made.
    pub created: UnixSeconds,
}

impl SilenceRow {
    /// Its name in addresses.
    pub fn id(&self) -> String {
        format!("si-{}", self.number)
    }
}

/// A silence to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSilence {
    /// The rule whose alerts are meant.
    pub rule: Option<GroupName>,
    /// The devices that are meant.
    pub filter: Filter,
    /// When it is over.
    pub until: UnixSeconds,
    /// Why.
    pub reason: String,
    /// Who makes it.
    pub made_by: String,
}

impl Numbered for SilenceRow {
    const KIND: &'static str = "silence";
    const PREFIX: &'static str = "si-";
    const DOING: &'static str = "read a silence";
    const TABLE: &'static str = "silences";
    const COLUMNS: &'static str = "number, rule, filter, until, reason, made_by, created";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = Self::DOING;
        let rule: String = row.try_get("rule").map_err(cannot(doing))?;
        let damaged = |_| StoreError::Damaged { table: "silences", column: "rule" };
        Ok(Self {
            number: from_sql(row.try_get("number").map_err(cannot(doing))?),
            rule: if rule.is_empty() { None } else { Some(rule.parse().map_err(damaged)?) },
            filter: formed(row, doing, ("silences", "filter"))?,
            until: time(row.try_get("until").map_err(cannot(doing))?),
            reason: row.try_get("reason").map_err(cannot(doing))?,
            made_by: row.try_get("made_by").map_err(cannot(doing))?,
            created: time(row.try_get("created").map_err(cannot(doing))?),
        })
    }
}

impl AccountScope {
    /// Makes a silence. With a key that was used before nothing is made and the earlier one is the answer.
    pub async fn create_silence(
        &self,
        wanted: &NewSilence,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<SilenceRow, StoreError> {
        let doing = "make a silence";
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "SELECT COALESCE(MAX(number), 0) + 1 AS next, COALESCE(SUM(CASE WHEN until > $2 THEN 1 ELSE 0 END), 0) AS open
             FROM silences WHERE account = $1",
        )
        .bind(self.id())
        .bind(to_sql(now.0))
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let number: i64 = row.try_get("next").map_err(cannot(doing))?;
        if let Some(earlier) = idempotency::claim_number(&mut tx, self, key, from_sql(number), now).await? {
            drop(tx);
            return self.silence(earlier).await;
        }
        if from_sql(row.try_get("open").map_err(cannot(doing))?) >= MAX_SILENCES {
            return Err(StoreError::TooMany { what: "silences in an account", most: MAX_SILENCES });
        }
        if let Some(rule) = &wanted.rule {
            let found = sqlx::query("SELECT 1 FROM alert_rules WHERE account = $1 AND name = $2")
                .bind(self.id())
                .bind(rule.as_str())
                .fetch_optional(tx.sql())
                .await
                .map_err(cannot(doing))?;
            found.map(drop).ok_or_else(|| AlertRuleRow::missing(rule))?;
        }
        self.resolved(tx.sql(), &wanted.filter).await?;
        sqlx::query(
            "INSERT INTO silences (account, number, rule, filter, until, reason, made_by, created)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(self.id())
        .bind(number)
        .bind(wanted.rule.as_ref().map_or("", GroupName::as_str))
        .bind(wanted.filter.as_str())
        .bind(to_sql(wanted.until.0))
        .bind(wanted.reason.as_str())
        .bind(wanted.made_by.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let draft = EventDraft { kind: "silence.created", subject: format!("silences/si-{number}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.silence(from_sql(number)).await
    }

    /// One silence.
    pub async fn silence(&self, number: u64) -> Result<SilenceRow, StoreError> {
        self.numbered(number).await
    }

    /// At most `limit` silences, the newest first, before the one of number `before`.
    pub async fn silences_before(&self, before: Option<u64>, limit: u32) -> Result<Vec<SilenceRow>, StoreError> {
        self.numbered_before(before, limit).await
    }

    /// Ends a silence now; one that is over stays as it is.
    pub async fn end_silence(&self, number: u64, now: UnixSeconds) -> Result<SilenceRow, StoreError> {
        let doing = "end a silence";
        let row = self.silence(number).await?;
        if row.until <= now {
            return Ok(row);
        }
        let mut tx = self.write().await?;
        sqlx::query("UPDATE silences SET until = $3 WHERE account = $1 AND number = $2 AND until > $3")
            .bind(self.id())
            .bind(to_sql(number))
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let draft = EventDraft { kind: "silence.ended", subject: format!("silences/si-{number}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.silence(number).await
    }

    /// The silences that hold now for a rule.
    pub(crate) async fn silences_of(&self, rule: &GroupName, now: UnixSeconds) -> Result<Vec<SilenceRow>, StoreError> {
        let sql = format!(
            "SELECT {} FROM silences WHERE account = $1 AND until > $2 AND (rule = '' OR rule = $3) ORDER BY number",
            SilenceRow::COLUMNS
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.id())
            .bind(to_sql(now.0))
            .bind(rule.as_str())
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list silences"))?;
        rows.iter().map(SilenceRow::read).collect()
    }
}
