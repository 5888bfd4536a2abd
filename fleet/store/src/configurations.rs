//! Documents of configuration: one of the account, of each group and of each device, with every revision that was saved. Never merges
//! them and never reads what they say.

use std::collections::{BTreeMap, BTreeSet};

use protocol_types::{EndpointName, GroupName, UnixSeconds};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Change, EventDraft, Filter, StoreError,
    devices::bound,
    error::{at_revision, cannot, formed},
    events,
    filter::Place,
    numbers::{time, to_sql},
    transaction::Transaction,
};

/// Whose document it is. The order is that in which documents are merged, later over earlier, apart from the priorities of groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigurationLevel {
    /// That of the whole account.
    Account,
    /// That of a group.
    Group(GroupName),
    /// That of one device.
    Device(EndpointName),
}

impl ConfigurationLevel {
    /// The most groups of an account that have a document: each is asked for when the settings of a device are put together.
    pub const MAX_GROUPS: u64 = 100;

    /// As in `group`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Group(_) => "group",
            Self::Device(_) => "device",
        }
    }

    /// Name of the group or device; empty for the account.
    pub fn name(&self) -> &str {
        match self {
            Self::Account => "",
            Self::Group(name) => name.as_str(),
            Self::Device(endpoint) => endpoint.as_str(),
        }
    }

    fn subject(&self) -> String {
        match self {
            Self::Account => "configuration".to_owned(),
            Self::Group(name) => format!("groups/{name}"),
            Self::Device(endpoint) => format!("devices/{endpoint}"),
        }
    }
}

/// A document of one level.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigurationRow {
    /// Whose it is.
    pub level: ConfigurationLevel,
    /// Among groups: the higher one wins. 0 elsewhere.
    pub priority: u32,
    /// What it says; a merge patch as in RFC 7396.
    pub document: Map<String, Value>,
    /// Counts every change; 0 if none was ever saved.
    pub revision: i64,
    /// When it was saved.
    pub changed: UnixSeconds,
}

impl ConfigurationRow {
    /// The priority of a group where nobody says another.
    pub const PRIORITY: u32 = 100;

    /// The order in which documents are merged, later over earlier.
    pub fn order(&self) -> (u8, u32, &str) {
        match &self.level {
            ConfigurationLevel::Account => (0, 0, ""),
            ConfigurationLevel::Group(name) => (1, self.priority, name.as_str()),
            ConfigurationLevel::Device(endpoint) => (2, 0, endpoint.as_str()),
        }
    }

    fn none(level: &ConfigurationLevel) -> Self {
        let priority = if matches!(level, ConfigurationLevel::Group(_)) { Self::PRIORITY } else { 0 };
        Self { level: level.clone(), priority, document: Map::new(), revision: 0, changed: UnixSeconds(0) }
    }
}

const TABLE: &str = "configurations";

fn read(level: ConfigurationLevel, row: &AnyRow) -> Result<ConfigurationRow, StoreError> {
    let doing = "read a configuration";
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    let text: String = row.try_get("document").map_err(cannot(doing))?;
    Ok(ConfigurationRow {
        level,
        priority: u32::try_from(number("priority")?)
            .map_err(|_| StoreError::Damaged { table: TABLE, column: "priority" })?,
        document: serde_json::from_str(&text).map_err(|_| StoreError::Damaged { table: TABLE, column: "document" })?,
        revision: number("revision")?,
        changed: time(number("changed")?),
    })
}

fn level(row: &AnyRow) -> Result<ConfigurationLevel, StoreError> {
    let doing = "read a configuration";
    let kind: String = row.try_get("level").map_err(cannot(doing))?;
    match kind.as_str() {
        "account" => Ok(ConfigurationLevel::Account),
        "group" => Ok(ConfigurationLevel::Group(formed(row, doing, (TABLE, "name"))?)),
        "device" => Ok(ConfigurationLevel::Device(formed(row, doing, (TABLE, "name"))?)),
        _ => Err(StoreError::Damaged { table: TABLE, column: "level" }),
    }
}

impl AccountScope {
    /// The document of a level; an empty one at revision 0 if none was ever saved.
    pub async fn configuration(&self, level: &ConfigurationLevel) -> Result<ConfigurationRow, StoreError> {
        match level {
            ConfigurationLevel::Account => {}
            ConfigurationLevel::Group(name) => drop(self.group(name).await?),
            ConfigurationLevel::Device(endpoint) => drop(self.device(endpoint).await?),
        }
        let row = sqlx::query(
            "SELECT priority, document, revision, changed FROM configurations
             WHERE account = $1 AND level = $2 AND name = $3",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read a configuration"))?;
        row.map_or_else(|| Ok(ConfigurationRow::none(level)), |row| read(level.clone(), &row))
    }

    /// One revision of the document of a level.
    pub async fn configuration_revision(
        &self,
        level: &ConfigurationLevel,
        revision: i64,
    ) -> Result<ConfigurationRow, StoreError> {
        let row = sqlx::query(
            "SELECT priority, document, revision, changed FROM configuration_revisions
             WHERE account = $1 AND level = $2 AND name = $3 AND revision = $4",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(revision)
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read a revision of a configuration"))?;
        let missing = || StoreError::NotFound { kind: "revision of the configuration", id: revision.to_string() };
        row.map_or_else(|| Err(missing()), |row| read(level.clone(), &row))
    }

    /// At most `limit` revisions of a level after `after`, the oldest first.
    pub async fn configuration_revisions_after(
        &self,
        level: &ConfigurationLevel,
        after: u64,
        limit: u32,
    ) -> Result<Vec<ConfigurationRow>, StoreError> {
        self.configuration(level).await?;
        let rows = sqlx::query(
            "SELECT priority, document, revision, changed FROM configuration_revisions
             WHERE account = $1 AND level = $2 AND name = $3 AND revision > $4 ORDER BY revision LIMIT $5",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(to_sql(after))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the revisions of a configuration"))?;
        rows.iter().map(|row| read(level.clone(), row)).collect()
    }

    /// Saves the document of a level as a new revision, if it is still at the revision `at`. The same document again makes none. Without a
    /// priority, that of a group stays.
    pub async fn save_configuration(
        &self,
        level: &ConfigurationLevel,
        (document, priority): (&Map<String, Value>, Option<u32>),
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<ConfigurationRow, StoreError> {
        let doing = "save a configuration";
        let mut tx = self.write().await?;
        self.must_have_level(&mut tx, level).await?;
        let row = sqlx::query(
            "SELECT priority, document, revision, changed FROM configurations
             WHERE account = $1 AND level = $2 AND name = $3",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let is_new = row.is_none();
        let before = row.map_or_else(|| Ok(ConfigurationRow::none(level)), |row| read(level.clone(), &row))?;
        at_revision(("configuration", level.name()), at, before.revision)?;
        let priority = priority.unwrap_or(before.priority);
        if !is_new && before.document == *document && before.priority == priority {
            return Ok(before);
        }
        if is_new {
            self.may_have_another(&mut tx, level).await?;
        }
        let text = Value::Object(document.clone()).to_string();
        let revision = before.revision.saturating_add(1);
        sqlx::query(
            "INSERT INTO configurations (account, level, name, priority, document, revision, changed)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (account, level, name) DO UPDATE SET priority = excluded.priority,
                 document = excluded.document, revision = excluded.revision, changed = excluded.changed",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(i64::from(priority))
        .bind(text.as_str())
        .bind(revision)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        sqlx::query(
            "INSERT INTO configuration_revisions (account, level, name, revision, priority, document, changed)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(revision)
        .bind(i64::from(priority))
        .bind(text.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let data = json!({ "level": level.kind(), "revision": revision });
        events::append(&mut tx, self, now, EventDraft { kind: "configuration.saved", subject: level.subject(), data })
            .await?;
        tx.changed(Change::Configuration(self.account.clone()));
        tx.commit().await?;
        self.configuration(level).await
    }

    async fn must_have_level(&self, tx: &mut Transaction, level: &ConfigurationLevel) -> Result<(), StoreError> {
        let sql = match level {
            ConfigurationLevel::Account => return Ok(()),
            ConfigurationLevel::Group(_) => "SELECT 1 FROM device_groups WHERE account = $1 AND name = $2",
            ConfigurationLevel::Device(_) => "SELECT 1 FROM devices WHERE account = $1 AND endpoint = $2",
        };
        let row = sqlx::query(sql)
            .bind(self.id())
            .bind(level.name())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot("look for what a configuration is of"))?;
        match row {
            Some(_) => Ok(()),
            None => Err(StoreError::NotFound { kind: level.kind(), id: level.name().to_owned() }),
        }
    }

    async fn may_have_another(&self, tx: &mut Transaction, level: &ConfigurationLevel) -> Result<(), StoreError> {
        let doing = "count configurations";
        if !matches!(level, ConfigurationLevel::Group(_)) {
            return Ok(());
        }
        let count: i64 =
            sqlx::query("SELECT COUNT(*) AS groups FROM configurations WHERE account = $1 AND level = 'group'")
                .bind(self.id())
                .fetch_one(tx.sql())
                .await
                .and_then(|row| row.try_get("groups"))
                .map_err(cannot(doing))?;
        if count >= to_sql(ConfigurationLevel::MAX_GROUPS) {
            let what = "groups with a configuration of their own";
            return Err(StoreError::TooMany { what, most: ConfigurationLevel::MAX_GROUPS });
        }
        Ok(())
    }

    /// Forgets the document of a group or device that goes, and its revisions.
    pub(crate) async fn forget_configuration(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM configurations WHERE account = $1 AND level = $2 AND name = $3")
            .bind(self.id())
            .bind(level.kind())
            .bind(level.name())
            .execute(tx.sql())
            .await
            .map_err(cannot("forget a configuration"))?;
        tx.changed(Change::Configuration(self.account.clone()));
        Ok(())
    }

    /// The documents that apply to each of these devices now, in the order in which they are merged. The
    /// names come in the order in which the store lists devices.
    pub async fn configuration_layers(
        &self,
        endpoints: &[EndpointName],
        now: UnixSeconds,
    ) -> Result<BTreeMap<EndpointName, Vec<ConfigurationRow>>, StoreError> {
        let doing = "read configurations";
        let (Some(first), Some(last)) = (endpoints.first(), endpoints.last()) else { return Ok(BTreeMap::new()) };
        let rows = sqlx::query(
            "SELECT level, name, priority, document, revision, changed FROM configurations
             WHERE account = $1 AND document <> '{}'
               AND (level IN ('account', 'group') OR level = 'device' AND name >= $2 AND name <= $3)",
        )
        .bind(self.id())
        .bind(first.as_str())
        .bind(last.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        let mut layers: BTreeMap<EndpointName, Vec<ConfigurationRow>> =
            endpoints.iter().map(|endpoint| (endpoint.clone(), Vec::new())).collect();
        for row in &rows {
            let row = read(level(row)?, row)?;
            let members = match &row.level {
                ConfigurationLevel::Account => None,
                ConfigurationLevel::Group(name) => Some(self.members_between(name, (first, last), now).await?),
                ConfigurationLevel::Device(endpoint) => Some(BTreeSet::from([endpoint.clone()])),
            };
            for (endpoint, of_device) in &mut layers {
                if members.as_ref().is_none_or(|members| members.contains(endpoint)) {
                    of_device.push(row.clone());
                }
            }
        }
        for of_device in layers.values_mut() {
            of_device.sort_by(|a, b| a.order().cmp(&b.order()));
        }
        Ok(layers)
    }

    /// The devices of a group whose name is in a range.
    async fn members_between(
        &self,
        name: &GroupName,
        (first, last): (&EndpointName, &EndpointName),
        now: UnixSeconds,
    ) -> Result<BTreeSet<EndpointName>, StoreError> {
        let doing = "look which devices are in a group";
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let filter = self.resolved(&mut connection, &Filter::of_group(name)).await?;
        let clause = filter.clause(Place { report: "r", first: 4, now });
        let sql = format!(
            "SELECT d.endpoint FROM devices d
             LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
             WHERE d.account = $1 AND d.endpoint >= $2 AND d.endpoint <= $3 AND {}",
            clause.sql
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(first.as_str()).bind(last.as_str());
        let rows = bound(query, clause.binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("devices", "endpoint"))).collect()
    }
}
