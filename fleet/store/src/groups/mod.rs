//! Groups: devices that an operator lists, that a filter finds, or that are in groups which a group includes. A listed member need
//! not have joined yet.

pub(crate) mod filters;
pub(crate) mod saved_filters;

use protocol_types::{EndpointName, GroupName, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Change, ConfigurationLevel, Filter, QuotaKind, RequestKey, StoreError,
    error::cannot,
    idempotency,
    named::Named,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// A group, without its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Its name, for ever.
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// How many members are listed.
    pub members: u64,
    /// The filter whose devices are in it, too.
    pub filter: Option<Filter>,
    /// When it was made.
    pub created: UnixSeconds,
    /// Counts every change.
    pub revision: i64,
}

impl Named for GroupRow {
    const KIND: &'static str = "group";
    const DOING: &'static str = "look after groups";
    const FROM: &'static str = "device_groups AS g";
    const COLUMNS: &'static str = "g.name, g.title, g.created, g.revision, g.filter,
        (SELECT COUNT(*) FROM group_members m WHERE m.account = g.account AND m.name = g.name) AS members";
    const EVENT: &'static str = "group";
    const PATH: &'static str = "groups";

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let doing = "read a group";
        let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
        Ok(Self {
            name: formed(row, doing, ("device_groups", "name"))?,
            title: row.try_get("title").map_err(cannot(doing))?,
            members: from_sql(number("members")?),
            filter: row
                .try_get::<Option<String>, _>("filter")
                .map_err(cannot(doing))?
                .map(|text| text.parse().map_err(|_| StoreError::Damaged { table: "device_groups", column: "filter" }))
                .transpose()?,
            created: time(number("created")?),
            revision: number("revision")?,
        })
    }
}

impl AccountScope {
    /// Makes a group of what `first` adds to it.
    pub async fn create_group(
        &self,
        name: &GroupName,
        first: &GroupChange,
        key: Option<&RequestKey>,
        now: UnixSeconds,
    ) -> Result<GroupRow, StoreError> {
        let mut tx = self.write().await?;
        if idempotency::claim(&mut tx, self, key, name.as_str(), now).await?.is_none() {
            self.within_quota(&mut tx, (QuotaKind::Groups, 1), now).await?;
            let made = sqlx::query(
                "INSERT INTO device_groups (account, name, title, created, revision) VALUES ($1, $2, $3, $4, 1)
                 ON CONFLICT (account, name) DO NOTHING",
            )
            .bind(self.id())
            .bind(name.as_str())
            .bind(first.title.as_deref().unwrap_or_default())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("make a group"))?;
            if made.rows_affected() == 0 {
                return Err(GroupRow::exists(name));
            }
            self.carry_out(&mut tx, name, first).await?;
            self.tell_group(&mut tx, (name, "created"), json!({ "added": first.add.len() }), now).await?;
        }
        tx.commit().await?;
        self.group(name).await
    }

    /// One group.
    pub async fn group(&self, name: &GroupName) -> Result<GroupRow, StoreError> {
        self.named(name).await
    }

    /// At most `limit` groups whose name comes after `after`.
    pub async fn groups_after(&self, after: &str, limit: u32) -> Result<Vec<GroupRow>, StoreError> {
        self.named_after(after, limit).await
    }

    /// At most `limit` members of a group whose name comes after `after`.
    pub async fn group_members_after(
        &self,
        name: &GroupName,
        after: &str,
        limit: u32,
    ) -> Result<Vec<EndpointName>, StoreError> {
        let doing = "list the members of a group";
        self.group(name).await?;
        let rows = sqlx::query(
            "SELECT endpoint FROM group_members WHERE account = $1 AND name = $2 AND endpoint > $3 ORDER BY endpoint LIMIT $4",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("group_members", "endpoint"))).collect()
    }

    /// Adds and removes members; those that are there, or gone, already are no error. Running rollouts to the group follow.
    pub async fn change_group(
        &self,
        name: &GroupName,
        change: &GroupChange,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<GroupRow, StoreError> {
        let mut tx = self.write().await?;
        self.next_group_revision(&mut tx, name, at).await?;
        self.carry_out(&mut tx, name, change).await?;
        let data = json!({ "added": change.add.len(), "removed": change.remove.len() });
        self.tell_group(&mut tx, (name, "changed"), data, now).await?;
        tx.commit().await?;
        self.group(name).await
    }

    /// The groups that a group includes, by name.
    pub async fn group_includes(&self, name: &GroupName) -> Result<Vec<GroupName>, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("read a group"))?;
        self.includes(&mut connection, name.as_str()).await
    }

    async fn carry_out(&self, tx: &mut Transaction, name: &GroupName, change: &GroupChange) -> Result<(), StoreError> {
        if let Some(title) = &change.title {
            sqlx::query("UPDATE device_groups SET title = $3 WHERE account = $1 AND name = $2")
                .bind(self.id())
                .bind(name.as_str())
                .bind(title.as_str())
                .execute(tx.sql())
                .await
                .map_err(cannot("change a group"))?;
        }
        self.add_members(tx, name, &change.add).await?;
        for endpoint in &change.remove {
            self.remove_member(tx, name, endpoint).await?;
        }
        self.define_group(tx, name, change).await
    }

    /// Removes a group; its members remain devices of the account.
    pub async fn delete_group(&self, name: &GroupName, at: Option<i64>, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.next_group_revision(&mut tx, name, at).await?;
        self.must_be_alone(&mut tx, name).await?;
        sqlx::query("DELETE FROM device_groups WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(name.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot("remove a group"))?;
        self.forget_configuration(&mut tx, &ConfigurationLevel::Group(name.clone()), now).await?;
        self.tell_group(&mut tx, (name, "deleted"), json!({}), now).await?;
        tx.commit().await
    }

    pub(crate) async fn next_group_revision(
        &self,
        tx: &mut Transaction,
        name: &GroupName,
        at: Option<i64>,
    ) -> Result<(), StoreError> {
        let row = sqlx::query(
            "UPDATE device_groups SET revision = revision + 1 WHERE account = $1 AND name = $2 RETURNING revision",
        )
        .bind(self.id())
        .bind(name.as_str())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot("change a group"))?;
        GroupRow::changed(row, name, at).map(drop)
    }

    async fn add_members(
        &self,
        tx: &mut Transaction,
        name: &GroupName,
        members: &[EndpointName],
    ) -> Result<(), StoreError> {
        for endpoint in members {
            self.add_member(tx, name, endpoint).await?;
        }
        Ok(())
    }

    /// Lists a member of a group; answers whether it was not listed before.
    pub(crate) async fn add_member(
        &self,
        tx: &mut Transaction,
        name: &GroupName,
        endpoint: &EndpointName,
    ) -> Result<bool, StoreError> {
        sqlx::query(
            "INSERT INTO group_members (account, name, endpoint) VALUES ($1, $2, $3)
             ON CONFLICT (account, name, endpoint) DO NOTHING",
        )
        .bind(self.id())
        .bind(name.as_str())
        .bind(endpoint.as_str())
        .execute(tx.sql())
        .await
        .map(|done| done.rows_affected() > 0)
        .map_err(cannot("add a member to a group"))
    }

    /// Takes a listed member from a group; answers whether it was listed before.
    pub(crate) async fn remove_member(
        &self,
        tx: &mut Transaction,
        name: &GroupName,
        endpoint: &EndpointName,
    ) -> Result<bool, StoreError> {
        sqlx::query("DELETE FROM group_members WHERE account = $1 AND name = $2 AND endpoint = $3")
            .bind(self.id())
            .bind(name.as_str())
            .bind(endpoint.as_str())
            .execute(tx.sql())
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(cannot("remove a member of a group"))
    }

    pub(crate) async fn tell_group(
        &self,
        tx: &mut Transaction,
        (name, what): (&GroupName, &str),
        data: serde_json::Value,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        tx.changed(Change::Rollouts(self.account.clone()));
        tx.changed(Change::Configuration(self.account.clone()));
        self.tell_named::<GroupRow>(tx, (name, what), data, now).await
    }
}

/// What changes in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupChange {
    /// What people call it from now on.
    pub title: Option<String>,
    /// Endpoints that become members.
    pub add: Vec<EndpointName>,
    /// Endpoints that are members no more.
    pub remove: Vec<EndpointName>,
    /// The filter from now on; `Some(None)` for none.
    pub filter: Option<Option<Filter>>,
    /// Groups that it includes from now on.
    pub include: Vec<GroupName>,
    /// Groups that it includes no more.
    pub exclude: Vec<GroupName>,
}
