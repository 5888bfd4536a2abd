//! Documents of configuration: one of the account, of each group and of each device, with every revision that was saved. Never merges
//! them and never reads what they say.

pub(crate) mod delivery;
pub(crate) mod facts;
pub(crate) mod layers;
pub(crate) mod secrets;
pub(crate) mod staging;

#[cfg(test)]
mod secret_tests;
#[cfg(test)]
mod staging_tests;
#[cfg(test)]
mod tests;

use protocol_types::{EndpointName, GroupName, RevisionStanding, UnixSeconds};
use serde_json::{Map, Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Change, EventDraft, Released, StoreError,
    error::{at_revision, cannot},
    events,
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

    /// Reads what `kind` and `name` wrote.
    pub(crate) fn read(kind: &str, name: &str) -> Option<Self> {
        match kind {
            "account" => Some(Self::Account),
            "group" => name.parse().ok().map(Self::Group),
            "device" => name.parse().ok().map(Self::Device),
            _ => None,
        }
    }

    pub(crate) fn subject(&self) -> String {
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
    /// Counts every revision; 0 if none was ever saved.
    pub revision: i64,
    /// When it was saved.
    pub changed: UnixSeconds,
    /// Whether it is the one in force.
    pub standing: RevisionStanding,
    /// The rollout that gave it to the device that is asked about; none if it is in force for all.
    pub released: Option<Released>,
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

    pub(crate) fn none(level: &ConfigurationLevel) -> Self {
        let priority = if matches!(level, ConfigurationLevel::Group(_)) { Self::PRIORITY } else { 0 };
        Self {
            level: level.clone(),
            priority,
            document: Map::new(),
            revision: 0,
            changed: UnixSeconds(0),
            standing: RevisionStanding::InForce,
            released: None,
        }
    }
}

const TABLE: &str = "configurations";

/// Reads a document; the column `in_force` is the revision of its level that is in force.
pub(crate) fn read(level: ConfigurationLevel, row: &AnyRow) -> Result<ConfigurationRow, StoreError> {
    let doing = "read a configuration";
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    let text: String = row.try_get("document").map_err(cannot(doing))?;
    let revision = number("revision")?;
    Ok(ConfigurationRow {
        level,
        priority: u32::try_from(number("priority")?)
            .map_err(|_| StoreError::Damaged { table: TABLE, column: "priority" })?,
        document: serde_json::from_str(&text).map_err(|_| StoreError::Damaged { table: TABLE, column: "document" })?,
        revision,
        changed: time(number("changed")?),
        standing: RevisionStanding::of(revision, number("in_force")?),
        released: None,
    })
}

/// Whose document a row is, by its columns `level` and `name`.
pub(crate) fn level(row: &AnyRow) -> Result<ConfigurationLevel, StoreError> {
    let text = |column| row.try_get::<String, _>(column).map_err(cannot("read a configuration"));
    ConfigurationLevel::read(&text("level")?, &text("name")?)
        .ok_or(StoreError::Damaged { table: TABLE, column: "level" })
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
            "SELECT priority, document, revision, changed, revision AS in_force FROM configurations
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
        let mut reader = self.readers().acquire().await.map_err(cannot("read a revision of a configuration"))?;
        let missing = || StoreError::NotFound { kind: "revision of the configuration", id: revision.to_string() };
        self.revision_on(&mut reader, level, revision).await?.ok_or_else(missing)
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
            "SELECT v.priority, v.document, v.revision, v.changed, c.revision AS in_force FROM configuration_revisions v
             JOIN configurations c ON c.account = v.account AND c.level = v.level AND c.name = v.name
             WHERE v.account = $1 AND v.level = $2 AND v.name = $3 AND v.revision > $4 ORDER BY v.revision LIMIT $5",
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

    /// Saves the document of a level as a new revision that is in force at once, if the one in force is still the revision `at`. The
    /// same document again makes none. Without a priority, that of a group stays. Refused while a rollout of the document goes on.
    pub async fn save_configuration(
        &self,
        level: &ConfigurationLevel,
        (document, priority): (&Map<String, Value>, Option<u32>),
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<ConfigurationRow, StoreError> {
        let mut tx = self.write().await?;
        self.must_have_level(&mut tx, level).await?;
        let (before, newest) = self.newest_revision(&mut tx, level).await?;
        at_revision(("configuration", level.name()), at, before.revision)?;
        let priority = priority.unwrap_or(before.priority);
        let is_same = before.document == *document && before.priority == priority;
        if is_same && before.revision > 0 && newest == before.revision {
            return Ok(before);
        }
        self.must_not_roll_out(&mut tx, level).await?;
        let revision = newest.saturating_add(1);
        self.put_in_force(&mut tx, (level, revision), (document, priority), now).await?;
        self.keep_revision(&mut tx, (level, revision), (document, priority), now).await?;
        let data = json!({ "level": level.kind(), "revision": revision });
        events::append(&mut tx, self, now, EventDraft { kind: "configuration.saved", subject: level.subject(), data })
            .await?;
        tx.commit().await?;
        self.configuration(level).await
    }

    /// The document in force, and the number of the newest revision. A level that never had a document gets an empty one at revision 0.
    pub(crate) async fn newest_revision(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
    ) -> Result<(ConfigurationRow, i64), StoreError> {
        let doing = "read a configuration";
        let row = sqlx::query(
            "SELECT priority, document, revision, changed, revision AS in_force,
                    COALESCE((SELECT MAX(v.revision) FROM configuration_revisions v
                              WHERE v.account = $1 AND v.level = $2 AND v.name = $3), 0) AS newest
             FROM configurations WHERE account = $1 AND level = $2 AND name = $3",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else {
            self.may_have_another(tx, level).await?;
            let none = ConfigurationRow::none(level);
            self.put_in_force(tx, (level, 0), (&none.document, none.priority), UnixSeconds(0)).await?;
            return Ok((none, 0));
        };
        Ok((read(level.clone(), &row)?, row.try_get("newest").map_err(cannot(doing))?))
    }

    /// Makes a revision the one in force.
    pub(crate) async fn put_in_force(
        &self,
        tx: &mut Transaction,
        (level, revision): (&ConfigurationLevel, i64),
        (document, priority): (&Map<String, Value>, u32),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
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
        .bind(Value::Object(document.clone()).to_string())
        .bind(revision)
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("save a configuration"))?;
        tx.changed(Change::Configuration(self.account.clone()));
        Ok(())
    }

    /// Keeps a revision.
    pub(crate) async fn keep_revision(
        &self,
        tx: &mut Transaction,
        (level, revision): (&ConfigurationLevel, i64),
        (document, priority): (&Map<String, Value>, u32),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO configuration_revisions (account, level, name, revision, priority, document, changed)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(revision)
        .bind(i64::from(priority))
        .bind(Value::Object(document.clone()).to_string())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("save a configuration"))?;
        Ok(())
    }

    pub(crate) async fn must_have_level(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
    ) -> Result<(), StoreError> {
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

    /// Forgets the document of a group or device that goes, and its revisions; rollouts of it end.
    pub(crate) async fn forget_configuration(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        self.end_rollouts_of(tx, (level, i64::MAX), "the document was removed", now).await?;
        self.forget_secrets(tx, level).await?;
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
}
