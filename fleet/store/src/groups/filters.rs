//! What stands for a group in a question about devices, apart from its list of members: its filter, and the groups that it includes.

use std::collections::{HashMap, hash_map::Entry};

use protocol_types::GroupName;
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use crate::{
    AccountScope, Filter, GroupChange, StoreError,
    devices::bound,
    error::cannot,
    filter::{Clause, Resolved},
    numbers::from_sql,
    rows::formed,
    transaction::Transaction,
};

/// Most tests that a filter may have once its groups are written out. SQLite reads expressions up to a depth of 1000.
const MAX_TESTS: usize = 500;

/// What a group is, apart from its list of members.
#[derive(Debug, Default)]
struct Definition {
    filter: Option<Filter>,
    includes: Vec<GroupName>,
}

impl Definition {
    /// Filters that stand for the group beside its list.
    fn filters(&self) -> Vec<Filter> {
        self.filter.iter().cloned().chain(self.includes.iter().map(Filter::of_group)).collect()
    }
}

/// The groups that a filter asks about, directly and through others.
#[derive(Debug, Default)]
struct Definitions(HashMap<String, Definition>);

impl Definitions {
    /// How many tests stand for a group. `above` are the groups in whose definition this one stands.
    fn weight<'a>(
        &'a self,
        name: &'a str,
        above: &mut Vec<&'a str>,
        known: &mut HashMap<&'a str, usize>,
    ) -> Result<usize, StoreError> {
        if let Some(weight) = known.get(name) {
            return Ok(*weight);
        }
        if above.contains(&name) {
            return Err(StoreError::GroupInItself { name: name.to_owned() });
        }
        let mut weight = 1_usize;
        if let Some(definition) = self.0.get(name) {
            above.push(name);
            let asked = definition.filter.iter().flat_map(Filter::groups);
            for next in asked.chain(definition.includes.iter().map(GroupName::as_str)) {
                weight = weight.saturating_add(self.weight(next, above, known)?);
            }
            above.pop();
            weight = weight.saturating_add(definition.filter.as_ref().map_or(0, Filter::tests));
        }
        if weight > MAX_TESTS {
            return Err(StoreError::FilterTooLarge { most: MAX_TESTS });
        }
        known.insert(name, weight);
        Ok(weight)
    }

    /// The filter with its groups written out; [`Self::weight`] has said that this comes to an end.
    fn write_out(&self, filter: &Filter) -> Resolved {
        filter.resolved(&|name| {
            let stands = self.0.get(name).map(Definition::filters).unwrap_or_default();
            stands.iter().map(|filter| self.write_out(filter)).collect()
        })
    }
}

impl AccountScope {
    /// The filter with every group written out, so that one query can answer it: true only for
    /// devices to which this scope is narrowed. A group that is not there has no members. What few devices pass is found first.
    pub(crate) async fn resolved(&self, sql: &mut AnyConnection, filter: &Filter) -> Result<Resolved, StoreError> {
        let narrowed = self.only().map(|only| filter.clone().and(only.clone()));
        let filter = narrowed.as_ref().unwrap_or(filter);
        let mut definitions = Definitions::default();
        let mut wanted: Vec<String> = filter.groups().into_iter().map(str::to_owned).collect();
        while let Some(name) = wanted.pop() {
            let Entry::Vacant(place) = definitions.0.entry(name) else { continue };
            let definition = self.definition(sql, place.key()).await?;
            wanted.extend(definition.filter.iter().flat_map(Filter::groups).map(str::to_owned));
            wanted.extend(definition.includes.iter().map(GroupName::to_string));
            place.insert(definition);
        }
        let (mut total, mut known) = (filter.tests(), HashMap::new());
        for name in filter.groups() {
            total = total.saturating_add(definitions.weight(name, &mut Vec::new(), &mut known)?);
        }
        if total > MAX_TESTS {
            return Err(StoreError::FilterTooLarge { most: MAX_TESTS });
        }
        let resolved = definitions.write_out(filter);
        let mut counted = Vec::new();
        for query in resolved.counts() {
            counted.push(self.count_passing(sql, query).await?);
        }
        Ok(resolved.narrowed(&counted))
    }

    async fn count_passing(&self, sql: &mut AnyConnection, query: Clause) -> Result<u64, StoreError> {
        let doing = "count the devices that pass a test";
        let count = bound(sqlx::query(AssertSqlSafe(query.sql)).bind(self.id()), query.binds);
        let row = count.fetch_one(sql).await.map_err(cannot(doing))?;
        Ok(from_sql(row.try_get("n").map_err(cannot(doing))?))
    }

    async fn definition(&self, sql: &mut AnyConnection, name: &str) -> Result<Definition, StoreError> {
        let doing = "read what a group is";
        let row = sqlx::query("SELECT filter FROM device_groups WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(name)
            .fetch_optional(&mut *sql)
            .await
            .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(Definition::default()) };
        let text: Option<String> = row.try_get("filter").map_err(cannot(doing))?;
        let damaged = |column| move |_| StoreError::Damaged { table: "device_groups", column };
        let filter = text.map(|text| text.parse().map_err(damaged("filter"))).transpose()?;
        Ok(Definition { filter, includes: self.includes(sql, name).await? })
    }

    /// The groups that a group includes, by name.
    pub(crate) async fn includes(&self, sql: &mut AnyConnection, name: &str) -> Result<Vec<GroupName>, StoreError> {
        let doing = "read which groups a group includes";
        let rows =
            sqlx::query("SELECT included FROM group_includes WHERE account = $1 AND name = $2 ORDER BY included")
                .bind(self.id())
                .bind(name)
                .fetch_all(sql)
                .await
                .map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("group_includes", "included"))).collect()
    }

    /// Changes the filter of a group and what it includes; refuses a group that would be part of itself.
    pub(crate) async fn define_group(
        &self,
        tx: &mut Transaction,
        name: &GroupName,
        change: &GroupChange,
    ) -> Result<(), StoreError> {
        if let Some(filter) = &change.filter {
            sqlx::query("UPDATE device_groups SET filter = $3 WHERE account = $1 AND name = $2")
                .bind(self.id())
                .bind(name.as_str())
                .bind(filter.as_ref().map(Filter::as_str))
                .execute(tx.sql())
                .await
                .map_err(cannot("change the filter of a group"))?;
            for asked in filter.iter().flat_map(Filter::groups) {
                self.must_be_group(tx, asked).await?;
            }
        }
        for included in &change.include {
            self.must_be_group(tx, included.as_str()).await?;
            sqlx::query(
                "INSERT INTO group_includes (account, name, included) VALUES ($1, $2, $3)
                 ON CONFLICT (account, name, included) DO NOTHING",
            )
            .bind(self.id())
            .bind(name.as_str())
            .bind(included.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot("include a group"))?;
        }
        for excluded in &change.exclude {
            sqlx::query("DELETE FROM group_includes WHERE account = $1 AND name = $2 AND included = $3")
                .bind(self.id())
                .bind(name.as_str())
                .bind(excluded.as_str())
                .execute(tx.sql())
                .await
                .map_err(cannot("take a group out of a group"))?;
        }
        self.resolved(tx.sql(), &Filter::of_group(name)).await.map(drop)
    }

    async fn must_be_group(&self, tx: &mut Transaction, name: &str) -> Result<(), StoreError> {
        sqlx::query("SELECT name FROM device_groups WHERE account = $1 AND name = $2")
            .bind(self.id())
            .bind(name)
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot("look for a group"))?
            .map(drop)
            .ok_or_else(|| StoreError::NotFound { kind: "group", id: name.to_owned() })
    }

    /// Refuses to let a group go that is part of another one.
    pub(crate) async fn must_be_alone(&self, tx: &mut Transaction, name: &GroupName) -> Result<(), StoreError> {
        let doing = "look for groups that a group is part of";
        let used = |by: String| StoreError::WrongState {
            kind: "group",
            id: name.to_string(),
            state: format!("part of the group `{by}`"),
        };
        let included = sqlx::query("SELECT name FROM group_includes WHERE account = $1 AND included = $2 LIMIT 1")
            .bind(self.id())
            .bind(name.as_str())
            .fetch_optional(tx.sql())
            .await
            .map_err(cannot(doing))?;
        if let Some(row) = included {
            return Err(used(row.try_get("name").map_err(cannot(doing))?));
        }
        let filters = sqlx::query("SELECT name, filter FROM device_groups WHERE account = $1 AND filter IS NOT NULL")
            .bind(self.id())
            .fetch_all(tx.sql())
            .await
            .map_err(cannot(doing))?;
        for row in filters {
            let filter: Filter = formed(&row, doing, ("device_groups", "filter"))?;
            if filter.groups().contains(&name.as_str()) {
                return Err(used(row.try_get("name").map_err(cannot(doing))?));
            }
        }
        Ok(())
    }
}
