//! Rules of alerts: what is looked for, at which devices, and how long it must hold. Never looks for it; `alerts` does.

use protocol_types::{GroupName, Severity, UnixSeconds, metrics::Metric};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, EventKinds, Filter, RequestKey, ServiceWide, StoreError,
    error::cannot,
    idempotency,
    named::Named,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Most rules of an account.
const MAX_RULES: u64 = 100;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AlertCondition {
    /// A device has broken its own promise: it is active, and late or lost.
    Absence {},
    /// A filter is true for a device.
    State {
        /// The filter.
        filter: Filter,
    },
    /// So many events within some time.
    Rate {
        /// Of these kinds.
        kinds: Vec<String>,
        /// So many raise the alert.
        events: u32,
        /// Fewer than so many end it.
        clear_below: u32,
        /// Within so many seconds.
        within_s: u64,
        /// Counted over the account; otherwise for each device.
        whole_account: bool,
    },
    /// The newest value of a metric is beyond a threshold. Values are in steps of the metric.
    Threshold {
        /// Of what.
        metric: Metric,
        /// On which side of the threshold it is too far.
        side: Side,
        /// A value beyond this one raises the alert.
        raise: i64,
        /// A value that is not beyond this one ends it.
        clear: i64,
        /// A value that is older than this, in seconds, says nothing of the present: it neither raises nor ends an alert.
        fresh_s: u64,
    },
}

/// A side of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Larger values.
    Above,
    /// Smaller values.
    Below,
}

/// How long things must hold, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The condition, before the alert is raised.
    pub for_s: u64,
    /// Its end, before the alert is resolved.
    pub clear_for_s: u64,
    /// An alert that nobody has acknowledged is told of again after this time; zero for never.
    pub remind_s: u64,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRuleRow {
    /// Its name, by the rule of groups' names.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// How bad its alerts are.
    pub severity: Severity,
    /// Which devices it looks at.
    pub filter: Filter,
    /// What it looks for.
    pub condition: AlertCondition,
    /// How long that must hold.
    pub patience: Patience,
    /// Whether it looks at all.
    pub enabled: bool,
    /// Whether as many of its alerts are open as there may be.
    pub is_full: bool,
    /// How many of its alerts are raised.
    pub raised: u64,
    /// When it was made.
    pub created: UnixSeconds,
    /// Counts every change that a person makes.
    pub revision: i64,
}

/// A rule to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAlertRule {
    /// Its name.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// How bad its alerts are.
    pub severity: Severity,
    /// Which devices it looks at.
    pub filter: Filter,
    /// What it looks for.
    pub condition: AlertCondition,
    /// How long that must hold.
    pub patience: Patience,
}

/// What to change of a rule; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlertRuleChange {
    /// What people call it.
    pub title: Option<String>,
    /// How bad its alerts are.
    pub severity: Option<Severity>,
    /// Which devices it looks at.
    pub filter: Option<Filter>,
    /// What it looks for.
    pub condition: Option<AlertCondition>,
    /// How long the condition must hold.
    pub for_s: Option<u64>,
    /// How long its end must hold.
    pub clear_for_s: Option<u64>,
    /// After which time it is told again.
    pub remind_s: Option<u64>,
    /// Whether it looks at all.
    pub enabled: Option<bool>,
}

impl Named for AlertRuleRow {
    const KIND: &'static str = "alert rule";
    const DOING: &'static str = "look after alert rules";
    const FROM: &'static str = "alert_rules AS q";
    const COLUMNS: &'static str =
        "q.name, q.title, q.severity, q.filter, q.condition, q.for_s, q.clear_for_s, q.remind_s, q.enabled, q.is_full,
        q.created, q.revision,
        (SELECT COUNT(*) FROM alerts x WHERE x.account = q.account AND x.rule = q.name AND x.state = 'raised') AS raised";
    const EVENT: &'static str = "alert_rule";
    const PATH: &'static str = "alert-rules";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = "read an alert rule";
        let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
        let condition: String = row.try_get("condition").map_err(cannot(doing))?;
        Ok(Self {
            name: formed(row, doing, ("alert_rules", "name"))?,
            title: row.try_get("title").map_err(cannot(doing))?,
            severity: formed(row, doing, ("alert_rules", "severity"))?,
            filter: formed(row, doing, ("alert_rules", "filter"))?,
            condition: serde_json::from_str(&condition)
                .map_err(|_| StoreError::Damaged { table: "alert_rules", column: "condition" })?,
            patience: Patience {
                for_s: number("for_s")?,
                clear_for_s: number("clear_for_s")?,
                remind_s: number("remind_s")?,
            },
            enabled: number("enabled")? != 0,
            is_full: number("is_full")? != 0,
            raised: number("raised")?,
            created: time(row.try_get("created").map_err(cannot(doing))?),
            revision: row.try_get("revision").map_err(cannot(doing))?,
        })
    }
}

fn condition_text(condition: &AlertCondition) -> Result<String, StoreError> {
    serde_json::to_string(condition).map_err(|_| StoreError::Damaged { table: "alert_rules", column: "condition" })
}

impl AlertCondition {
    /// The condition as a filter, if it is one.
    pub(crate) fn as_filter(&self) -> Option<Filter> {
        match self {
            Self::Absence {} => "presence in (late, lost) and standing = active".parse().ok(),
            Self::State { filter } => Some(filter.clone()),
            Self::Rate { .. } | Self::Threshold { .. } => None,
        }
    }

    /// The kinds of events that it counts.
    ///
    /// # Errors
    /// If the table holds kinds that are none: without any, every kind would count.
    pub(crate) fn kinds(&self) -> Result<EventKinds, StoreError> {
        let damaged = |_| StoreError::Damaged { table: "alert_rules", column: "condition" };
        match self {
            Self::Rate { kinds, .. } => EventKinds::new(kinds.clone()).map_err(damaged),
            Self::Absence {} | Self::State { .. } | Self::Threshold { .. } => Ok(EventKinds::default()),
        }
    }
}

impl AccountScope {
    /// Makes a rule. With a key that was used before nothing is made and the earlier one is the answer.
    pub async fn create_alert_rule(
        &self,
        wanted: &NewAlertRule,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<AlertRuleRow, StoreError> {
        let doing = "make an alert rule";
        let mut tx = self.write().await?;
        if idempotency::claim(&mut tx, self, key, wanted.name.as_str(), now).await?.is_none() {
            self.has_room_for::<AlertRuleRow>(&mut tx, "alert rules in an account", MAX_RULES).await?;
            self.can_be_asked(&mut tx, &wanted.filter, Some(&wanted.condition)).await?;
            let made = sqlx::query(
                "INSERT INTO alert_rules (account, name, title, severity, filter, condition, for_s, clear_for_s, remind_s,
                     enabled, created, revision)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, 1) ON CONFLICT (account, name) DO NOTHING",
            )
            .bind(self.id())
            .bind(wanted.name.as_str())
            .bind(wanted.title.as_str())
            .bind(wanted.severity.as_str())
            .bind(wanted.filter.as_str())
            .bind(condition_text(&wanted.condition)?)
            .bind(to_sql(wanted.patience.for_s))
            .bind(to_sql(wanted.patience.clear_for_s))
            .bind(to_sql(wanted.patience.remind_s))
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
            if made.rows_affected() == 0 {
                return Err(AlertRuleRow::exists(&wanted.name));
            }
            self.tell_named::<AlertRuleRow>(&mut tx, (&wanted.name, "created"), json!({}), now).await?;
        }
        tx.commit().await?;
        self.alert_rule(&wanted.name).await
    }

    /// Refuses filters whose groups stand for too many tests.
    async fn can_be_asked(
        &self,
        tx: &mut Transaction,
        filter: &Filter,
        condition: Option<&AlertCondition>,
    ) -> Result<(), StoreError> {
        let both = match condition.and_then(AlertCondition::as_filter) {
            Some(condition) => filter.clone().and(condition),
            None => filter.clone(),
        };
        self.resolved(tx.sql(), &both).await.map(drop)
    }

    /// One rule.
    pub async fn alert_rule(&self, name: &GroupName) -> Result<AlertRuleRow, StoreError> {
        self.named(name).await
    }

    /// At most `limit` rules whose name comes after `after`.
    pub async fn alert_rules_after(&self, after: &str, limit: u32) -> Result<Vec<AlertRuleRow>, StoreError> {
        self.named_after(after, limit).await
    }

    /// Changes a rule, if it is still at the revision `at`. Alerts that are open stay open until the rule as it is now ends them.
    pub async fn change_alert_rule(
        &self,
        name: &GroupName,
        change: &AlertRuleChange,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<AlertRuleRow, StoreError> {
        let mut tx = self.write().await?;
        // What does not change is what it is now, and not what it was before another change.
        let was: AlertRuleRow = self.named_on(tx.sql(), name).await?;
        let row = sqlx::query(
            "UPDATE alert_rules SET revision = revision + 1, title = COALESCE($3, title), severity = COALESCE($4, severity),
                 filter = COALESCE($5, filter), condition = COALESCE($6, condition),
                 for_s = CASE WHEN CAST($7 AS BIGINT) < 0 THEN for_s ELSE CAST($7 AS BIGINT) END,
                 clear_for_s = CASE WHEN CAST($8 AS BIGINT) < 0 THEN clear_for_s ELSE CAST($8 AS BIGINT) END,
                 remind_s = CASE WHEN CAST($9 AS BIGINT) < 0 THEN remind_s ELSE CAST($9 AS BIGINT) END,
                 enabled = CASE WHEN CAST($10 AS BIGINT) < 0 THEN enabled ELSE CAST($10 AS BIGINT) END
             WHERE account = $1 AND name = $2 RETURNING revision",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(change.title.as_deref())
        .bind(change.severity.map(Severity::as_str))
        .bind(change.filter.as_ref().map(Filter::as_str))
        .bind(change.condition.as_ref().map(condition_text).transpose()?)
        .bind(change.for_s.map_or(-1, to_sql))
        .bind(change.clear_for_s.map_or(-1, to_sql))
        .bind(change.remind_s.map_or(-1, to_sql))
        .bind(change.enabled.map_or(-1, i64::from))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot("change an alert rule"))?;
        AlertRuleRow::changed(row, name, at)?;
        let filter = change.filter.as_ref().unwrap_or(&was.filter);
        self.can_be_asked(&mut tx, filter, change.condition.as_ref().or(Some(&was.condition))).await?;
        if change.enabled == Some(false) {
            self.end_alerts_of(&mut tx, name, now).await?;
        }
        self.tell_named::<AlertRuleRow>(&mut tx, (name, "changed"), json!({}), now).await?;
        tx.commit().await?;
        self.alert_rule(name).await
    }

    /// Forgets a rule, if it is still at the revision `at`, and resolves its alerts.
    pub async fn delete_alert_rule(
        &self,
        name: &GroupName,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.forget_named::<AlertRuleRow>(&mut tx, name, at).await?;
        self.end_alerts_of(&mut tx, name, now).await?;
        self.tell_named::<AlertRuleRow>(&mut tx, (name, "deleted"), json!({}), now).await?;
        tx.commit().await
    }
}

impl ServiceWide {
    /// The rules that look, of all accounts.
    pub async fn enabled_alert_rules(&self) -> Result<Vec<(protocol_types::AccountName, AlertRuleRow)>, StoreError> {
        let doing = "look for alert rules";
        let sql = format!(
            "SELECT q.account, {} FROM {} WHERE q.enabled = 1 ORDER BY q.account, q.name",
            AlertRuleRow::COLUMNS,
            AlertRuleRow::FROM
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(self.store.readers()).await.map_err(cannot(doing))?;
        rows.iter().map(|row| Ok((formed(row, doing, ("alert_rules", "account"))?, AlertRuleRow::read(row)?))).collect()
    }
}
