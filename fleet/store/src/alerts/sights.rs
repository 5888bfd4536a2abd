//! What the condition of an alert rule looks like now: for which devices it holds, and for which it neither holds nor is over. Looks and
//! never writes.

use std::collections::{BTreeMap, HashSet};

use protocol_types::UnixSeconds;
use sqlx::{AssertSqlSafe, Row};

use crate::{
    AccountScope, AlertCondition, AlertRuleRow, Filter, Side, Sight, StoreError,
    alerts::rounds::{MAX_OPEN, OpenRow},
    devices::bound,
    error::cannot,
    filter::{Bind, Place},
    metrics::column,
    numbers::{from_sql, to_sql},
};

/// Devices that one query is asked about by name.
const AT_ONCE: usize = 500;

/// What a rule sees. A subject that is not there is clear.
pub(crate) struct Sights {
    pub(crate) seen: BTreeMap<String, Sight>,
    /// Whether there was more than there may be alerts.
    pub(crate) is_full: bool,
}

impl AccountScope {
    pub(crate) async fn sights(
        &self,
        rule: &AlertRuleRow,
        open: &BTreeMap<String, OpenRow>,
        now: UnixSeconds,
    ) -> Result<Sights, StoreError> {
        let mut sights = match &rule.condition {
            AlertCondition::Rate { .. } => self.counted(rule, now).await?,
            AlertCondition::Threshold { .. } => self.measured(rule, now).await?,
            AlertCondition::Absence {} | AlertCondition::State { .. } => {
                let wanted = rule.filter.clone().and(rule.condition.as_filter().unwrap_or_else(Filter::every_device));
                self.found(rule, &wanted, open, now).await?
            }
        };
        let mut room = MAX_OPEN.saturating_sub(open.len());
        let before = sights.len();
        sights.retain(|subject, sight| {
            if open.contains_key(subject) {
                return true;
            }
            let fits = *sight == Sight::Met && room > 0;
            room -= usize::from(fits);
            fits || *sight != Sight::Met
        });
        Ok(Sights { is_full: sights.len() < before, seen: sights })
    }

    /// The devices with an open alert for which the filter is still true, and as many others as there may be alerts, and one more.
    async fn found(
        &self,
        rule: &AlertRuleRow,
        wanted: &Filter,
        open: &BTreeMap<String, OpenRow>,
        now: UnixSeconds,
    ) -> Result<BTreeMap<String, Sight>, StoreError> {
        let doing = "look for what an alert rule is about";
        let named: Vec<&str> = open.keys().map(String::as_str).collect();
        let mut seen: BTreeMap<String, Sight> =
            self.devices_among(wanted, &named, now).await?.into_iter().map(|subject| (subject, Sight::Met)).collect();
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let clause = self.resolved(&mut connection, wanted).await?.clause(Place { report: "r", first: 4, now });
        let sql = format!(
            "SELECT d.endpoint FROM devices d
             LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
             WHERE d.account = $1 AND {} AND NOT EXISTS (SELECT 1 FROM alerts x
                 WHERE x.account = $1 AND x.rule = $2 AND x.subject = d.endpoint AND x.state <> 'resolved')
             ORDER BY d.endpoint LIMIT $3",
            clause.sql
        );
        let most = MAX_OPEN.saturating_sub(open.len()).saturating_add(1);
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(rule.name.as_str())
            .bind(i64::try_from(most).unwrap_or(i64::MAX));
        let rows = bound(query, clause.binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        for row in rows {
            seen.insert(row.try_get("endpoint").map_err(cannot(doing))?, Sight::Met);
        }
        Ok(seen)
    }

    /// What has had at least as many events as end no alert.
    async fn counted(&self, rule: &AlertRuleRow, now: UnixSeconds) -> Result<BTreeMap<String, Sight>, StoreError> {
        let doing = "count events for an alert rule";
        let AlertCondition::Rate { events, clear_below, within_s, whole_account, .. } = &rule.condition else {
            return Ok(BTreeMap::new());
        };
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let wanted = (&rule.condition.kinds()?, &rule.filter);
        let (condition, binds) = self.event_condition(&mut connection, wanted, (5, now)).await?;
        let subject = if *whole_account { "''" } else { "e.device" };
        let only = if *whole_account { "" } else { "AND e.device IS NOT NULL" };
        let sql = format!(
            "SELECT q.subject, q.n FROM (
                 SELECT {subject} AS subject, COUNT(*) AS n FROM events e
                 WHERE e.account = $1 AND e.time > $2 AND {condition} {only} GROUP BY 1) q
             WHERE q.n >= $3 ORDER BY q.n DESC, q.subject LIMIT $4"
        );
        let lower = (*clear_below).min(*events).max(1);
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(to_sql(now.0.saturating_sub(*within_s)))
            .bind(i64::from(lower))
            .bind(i64::try_from(2 * MAX_OPEN + 1).unwrap_or(i64::MAX));
        let rows = bound(query, binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let count = from_sql(row.try_get("n").map_err(cannot(doing))?);
                let sight = if count >= u64::from(*events) { Sight::Met } else { Sight::Between };
                Ok((row.try_get("subject").map_err(cannot(doing))?, sight))
            })
            .collect()
    }

    /// The devices whose newest value would not end an alert. One that is too old to be the present neither raises nor ends one.
    async fn measured(&self, rule: &AlertRuleRow, now: UnixSeconds) -> Result<BTreeMap<String, Sight>, StoreError> {
        let doing = "compare metrics for an alert rule";
        let AlertCondition::Threshold { metric, side, raise, clear, fresh_s } = &rule.condition else {
            return Ok(BTreeMap::new());
        };
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let clause = self.resolved(&mut connection, &rule.filter).await?.clause(Place { report: "r", first: 5, now });
        let (beyond, order) = match side {
            Side::Above => (">", "DESC"),
            Side::Below => ("<", "ASC"),
        };
        let column = column(*metric);
        let sql = format!(
            "SELECT m.endpoint, m.{column} AS value, m.time FROM device_metrics m
             JOIN devices d ON d.account = m.account AND d.endpoint = m.endpoint
             LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
             WHERE m.account = $1 AND d.account = $1 AND d.standing <> 'decommissioned' AND m.{column} {beyond} $2 AND {}
             ORDER BY CASE WHEN EXISTS (SELECT 1 FROM alerts x WHERE x.account = $1 AND x.rule = $4
                 AND x.subject = m.endpoint AND x.state <> 'resolved') THEN 0 ELSE 1 END,
             m.{column} {order}, m.endpoint LIMIT $3",
            clause.sql
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(*clear)
            .bind(i64::try_from(2 * MAX_OPEN + 1).unwrap_or(i64::MAX))
            .bind(rule.name.as_str());
        let rows = bound(query, clause.binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
                let value = number("value")?;
                let is_beyond = match side {
                    Side::Above => value > *raise,
                    Side::Below => value < *raise,
                };
                let is_fresh = now.0.saturating_sub(from_sql(number("time")?)) <= *fresh_s;
                let sight = if is_beyond && is_fresh { Sight::Met } else { Sight::Between };
                Ok((row.try_get("endpoint").map_err(cannot(doing))?, sight))
            })
            .collect()
    }

    /// Those of the named devices for which a filter is true.
    pub(crate) async fn devices_among(
        &self,
        filter: &Filter,
        names: &[&str],
        now: UnixSeconds,
    ) -> Result<HashSet<String>, StoreError> {
        let doing = "look for some devices";
        let mut found = HashSet::new();
        if names.is_empty() {
            return Ok(found);
        }
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let filter = self.resolved(&mut connection, filter).await?;
        for some in names.chunks(AT_ONCE) {
            let places: Vec<String> = (0..some.len()).map(|index| format!("${}", index + 2)).collect();
            let clause = filter.clause(Place { report: "r", first: 2 + some.len(), now });
            let sql = format!(
                "SELECT d.endpoint FROM devices d
                 LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
                 WHERE d.account = $1 AND d.endpoint IN ({}) AND {}",
                places.join(", "),
                clause.sql
            );
            let mut binds: Vec<Bind> = some.iter().map(|name| Bind::Text((*name).to_owned())).collect();
            binds.extend(clause.binds);
            let query = bound(sqlx::query(AssertSqlSafe(sql)).bind(self.id()), binds);
            for row in query.fetch_all(&mut *connection).await.map_err(cannot(doing))? {
                found.insert(row.try_get("endpoint").map_err(cannot(doing))?);
            }
        }
        Ok(found)
    }
}
