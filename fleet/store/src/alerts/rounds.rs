//! One look at what an alert rule is about: facts are brought together, what follows from them is decided elsewhere, by a function, and what
//! was decided is written together with the event that tells it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use protocol_types::{AlertState, GroupName, UnixSeconds};
use serde_json::json;
use sqlx::Row;

use crate::{
    AccountScope, AlertRuleRow, EventDraft, StoreError,
    alerts::{sights::Sights, subject_of},
    error::cannot,
    events,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// Alerts of one rule that may be open at a time.
pub(crate) const MAX_OPEN: usize = 1000;

/// An alert that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenAlert {
    /// The condition holds, but not long enough yet.
    Pending {
        /// From when on.
        since: UnixSeconds,
    },
    /// The condition has held long enough.
    Raised {
        /// When an event last told of it; a silenced one was never told of.
        told: Option<UnixSeconds>,
        /// From when on the condition does not hold any more, if it does not.
        clear_since: Option<UnixSeconds>,
    },
}

/// How the condition looks now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It holds.
    Met,
    /// It would not raise an alert, but does not end one either.
    Between,
    /// It does not hold.
    Clear,
}

/// What an alert is decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertFacts {
    /// The alert so far.
    pub open: Option<OpenAlert>,
    /// How the condition looks.
    pub sight: Sight,
    /// Whether it must not be told of now.
    pub silenced: bool,
    /// Whether somebody has said that they know.
    pub acknowledged: bool,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertNews {
    /// There is an alert.
    Raised,
    /// There still is, and nobody has said that they know.
    Reminder,
    /// It is over.
    Resolved,
}

/// An alert that is open, as the table holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenRow {
    number: u64,
    pub(crate) open: OpenAlert,
    pub(crate) acknowledged: bool,
}

/// Something that was decided.
struct Decided<'a> {
    subject: &'a str,
    was: Option<OpenRow>,
    next: Option<OpenAlert>,
    news: Option<AlertNews>,
}

impl AccountScope {
    /// Looks at everything that a rule may be about and carries out what `step` decides. Answers how many alerts have changed. A rule
    /// that somebody has changed meanwhile is left for the next look.
    pub async fn evaluate_alert_rule(
        &self,
        rule: &AlertRuleRow,
        step: impl Fn(&AlertFacts) -> (Option<OpenAlert>, Option<AlertNews>),
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        let open = self.open_alerts(&rule.name).await?;
        let Sights { seen, is_full } = self.sights(rule, &open, now).await?;
        let met: Vec<&str> =
            seen.iter().filter(|(_, sight)| **sight == Sight::Met).map(|(subject, _)| subject.as_str()).collect();
        let silenced = self.silenced(&rule.name, &met, now).await?;
        let subjects: BTreeSet<&str> = open.keys().map(String::as_str).chain(seen.keys().map(String::as_str)).collect();
        let decided: Vec<Decided<'_>> = subjects
            .into_iter()
            .filter_map(|subject| {
                let was = open.get(subject).copied();
                let facts = AlertFacts {
                    open: was.map(|was| was.open),
                    sight: seen.get(subject).copied().unwrap_or(Sight::Clear),
                    silenced: silenced.contains(subject),
                    acknowledged: was.is_some_and(|was| was.acknowledged),
                };
                let (next, news) = step(&facts);
                (next != facts.open || news.is_some()).then_some(Decided { subject, was, next, news })
            })
            .collect();
        if decided.is_empty() && is_full == rule.is_full {
            return Ok(0);
        }
        self.carry_out_alerts(rule, &decided, is_full, now).await
    }

    async fn open_alerts(&self, rule: &GroupName) -> Result<BTreeMap<String, OpenRow>, StoreError> {
        let doing = "read the open alerts of a rule";
        let rows = sqlx::query(
            "SELECT number, subject, state, since, told, clear_since, acknowledged FROM alerts
             WHERE account = $1 AND rule = $2 AND state <> 'resolved'",
        )
        .bind(self.id())
        .bind(rule.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let optional =
                    |column| row.try_get::<Option<i64>, _>(column).map(|at| at.map(time)).map_err(cannot(doing));
                let open = match formed(row, doing, ("alerts", "state"))? {
                    AlertState::Pending => {
                        OpenAlert::Pending { since: time(row.try_get("since").map_err(cannot(doing))?) }
                    }
                    AlertState::Raised | AlertState::Resolved => {
                        OpenAlert::Raised { told: optional("told")?, clear_since: optional("clear_since")? }
                    }
                };
                let number = from_sql(row.try_get("number").map_err(cannot(doing))?);
                let standing = OpenRow { number, open, acknowledged: optional("acknowledged")?.is_some() };
                Ok((row.try_get("subject").map_err(cannot(doing))?, standing))
            })
            .collect()
    }

    /// Those of the subjects that are not to be told of now.
    async fn silenced(
        &self,
        rule: &GroupName,
        subjects: &[&str],
        now: UnixSeconds,
    ) -> Result<HashSet<String>, StoreError> {
        let mut silenced = HashSet::new();
        if subjects.is_empty() {
            return Ok(silenced);
        }
        for silence in self.silences_of(rule, now).await? {
            if silence.filter.as_str().is_empty() {
                return Ok(subjects.iter().map(|subject| (*subject).to_owned()).collect());
            }
            silenced.extend(self.devices_among(&silence.filter, subjects, now).await?);
        }
        Ok(silenced)
    }

    async fn carry_out_alerts(
        &self,
        rule: &AlertRuleRow,
        decided: &[Decided<'_>],
        is_full: bool,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        let doing = "write alerts";
        let mut tx = self.store.write().await?;
        let still = sqlx::query(
            "UPDATE alert_rules SET is_full = $4 WHERE account = $1 AND name = $2 AND revision = $3 AND enabled = 1",
        )
        .bind(self.id())
        .bind(rule.name.as_str())
        .bind(rule.revision)
        .bind(i64::from(is_full))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if still.rows_affected() == 0 {
            return Ok(0);
        }
        if is_full && !rule.is_full {
            self.tell_named::<AlertRuleRow>(&mut tx, (&rule.name, "full"), json!({}), now).await?;
        }
        let row = sqlx::query("SELECT COALESCE(MAX(number), 0) AS last FROM alerts WHERE account = $1")
            .bind(self.id())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(doing))?;
        let mut last = from_sql(row.try_get("last").map_err(cannot(doing))?);
        for decided in decided {
            let number = match (decided.was, decided.next) {
                (Some(was), next) => {
                    self.move_on(&mut tx, was, next, now).await?;
                    was.number
                }
                (None, Some(next)) => {
                    last += 1;
                    self.open_alert(&mut tx, rule, (last, decided.subject), (next, now)).await?;
                    last
                }
                (None, None) => continue,
            };
            if let Some(news) = decided.news {
                self.tell_alert(&mut tx, rule, (number, decided.subject), (news, now)).await?;
            }
        }
        tx.commit().await?;
        Ok(decided.len())
    }

    async fn open_alert(
        &self,
        tx: &mut Transaction,
        rule: &AlertRuleRow,
        (number, subject): (u64, &str),
        (alert, now): (OpenAlert, UnixSeconds),
    ) -> Result<(), StoreError> {
        let (state, since, raised, told) = match alert {
            OpenAlert::Pending { since } => ("pending", since, None, None),
            OpenAlert::Raised { told, .. } => ("raised", now, Some(now), told),
        };
        sqlx::query(
            "INSERT INTO alerts (account, number, rule, subject, severity, state, since, raised, told)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(self.id())
        .bind(to_sql(number))
        .bind(rule.name.as_str())
        .bind(subject)
        .bind(rule.severity.as_str())
        .bind(state)
        .bind(to_sql(since.0))
        .bind(raised.map(|at| to_sql(at.0)))
        .bind(told.map(|at| to_sql(at.0)))
        .execute(tx.sql())
        .await
        .map_err(cannot("open an alert"))?;
        Ok(())
    }

    async fn move_on(
        &self,
        tx: &mut Transaction,
        was: OpenRow,
        next: Option<OpenAlert>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let (told, clear_since, state) = match (was.open, next) {
            (OpenAlert::Pending { .. }, None) => {
                return sqlx::query("DELETE FROM alerts WHERE account = $1 AND number = $2")
                    .bind(self.id())
                    .bind(to_sql(was.number))
                    .execute(tx.sql())
                    .await
                    .map(drop)
                    .map_err(cannot("forget an alert that was not raised"));
            }
            (OpenAlert::Raised { told, clear_since }, None) => (told, clear_since, "resolved"),
            (_, Some(OpenAlert::Raised { told, clear_since })) => (told, clear_since, "raised"),
            (_, Some(OpenAlert::Pending { .. })) => return Ok(()),
        };
        sqlx::query(
            "UPDATE alerts SET state = $3, told = $4, clear_since = $5, raised = COALESCE(raised, $6),
                 resolved = CASE WHEN $3 = 'resolved' THEN $6 ELSE resolved END
             WHERE account = $1 AND number = $2",
        )
        .bind(self.id())
        .bind(to_sql(was.number))
        .bind(state)
        .bind(told.map(|at| to_sql(at.0)))
        .bind(clear_since.map(|at| to_sql(at.0)))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("move an alert on"))?;
        Ok(())
    }

    async fn tell_alert(
        &self,
        tx: &mut Transaction,
        rule: &AlertRuleRow,
        (number, subject): (u64, &str),
        (news, now): (AlertNews, UnixSeconds),
    ) -> Result<(), StoreError> {
        let kind = match news {
            AlertNews::Raised => "alert.raised",
            AlertNews::Reminder => "alert.reminder",
            AlertNews::Resolved => "alert.resolved",
        };
        let data = json!({ "rule": rule.name, "title": rule.title, "severity": rule.severity.as_str() });
        events::append(tx, self, now, EventDraft { kind, subject: subject_of(number, subject), data }).await
    }
}
