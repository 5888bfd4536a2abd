//! Which documents apply to which devices, and in which revision: the one in force, or the staged one that a rollout has released to the
//! device. Never merges them.

use std::collections::{BTreeMap, BTreeSet};

use protocol_types::{EndpointName, GroupName, UnixSeconds};
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, ConfigurationLevel, ConfigurationRow, Filter, Released, StoreError,
    configurations::{level, read},
    devices::bound,
    error::cannot,
    filter::Place,
    numbers::from_sql,
    rows::formed,
};

const DOING: &str = "read configurations";

/// The revisions that rollouts have released, by level and device.
type Staged = BTreeMap<ConfigurationLevel, BTreeMap<EndpointName, ConfigurationRow>>;

impl AccountScope {
    /// The documents that apply to each of these devices now, in the order in which they are merged. The
    /// names come in the order in which the store lists devices.
    pub async fn configuration_layers(
        &self,
        endpoints: &[EndpointName],
        now: UnixSeconds,
    ) -> Result<BTreeMap<EndpointName, Vec<ConfigurationRow>>, StoreError> {
        let (Some(first), Some(last)) = (endpoints.first(), endpoints.last()) else { return Ok(BTreeMap::new()) };
        let staged = self.released_between((first, last)).await?;
        let rows = sqlx::query(
            "SELECT level, name, priority, document, revision, changed, revision AS in_force FROM configurations
             WHERE account = $1 AND (level IN ('account', 'group') OR level = 'device' AND name >= $2 AND name <= $3)",
        )
        .bind(self.id())
        .bind(first.as_str())
        .bind(last.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(DOING))?;
        let mut layers: BTreeMap<EndpointName, Vec<ConfigurationRow>> =
            endpoints.iter().map(|endpoint| (endpoint.clone(), Vec::new())).collect();
        for row in &rows {
            let row = read(level(row)?, row)?;
            let released = staged.get(&row.level);
            if row.document.is_empty() && released.is_none() {
                continue;
            }
            let members = match &row.level {
                ConfigurationLevel::Account => None,
                ConfigurationLevel::Group(name) => Some(self.members_between(name, (first, last), now).await?),
                ConfigurationLevel::Device(endpoint) => Some(BTreeSet::from([endpoint.clone()])),
            };
            for (endpoint, of_device) in &mut layers {
                if members.as_ref().is_some_and(|members| !members.contains(endpoint)) {
                    continue;
                }
                // A revision that was released takes part also where it says nothing: its rollout waits to hear that it was given.
                match released.and_then(|released| released.get(endpoint)) {
                    Some(released) => of_device.push(released.clone()),
                    None if row.document.is_empty() => {}
                    None => of_device.push(row.clone()),
                }
            }
        }
        for of_device in layers.values_mut() {
            of_device.sort_by(|a, b| a.order().cmp(&b.order()));
        }
        Ok(layers)
    }

    /// The staged revisions that devices in a range of names have. Where rollouts have released several of one document to a device, it has
    /// that of the rollout that was started last.
    async fn released_between(&self, (first, last): (&EndpointName, &EndpointName)) -> Result<Staged, StoreError> {
        let rows = sqlx::query(
            "SELECT r.endpoint AS endpoint, r.rollout AS rollout, r.released AS released, r.generation AS generation,
                    v.level AS level, v.name AS name, v.priority AS priority, v.document AS document, v.revision AS revision,
                    v.changed AS changed, c.revision AS in_force
             FROM rollout_devices r
             JOIN rollouts n ON n.account = r.account AND n.id = r.rollout
             JOIN configuration_revisions v ON v.account = n.account AND v.level = n.level AND v.name = n.level_name
                 AND v.revision = n.level_revision
             JOIN configurations c ON c.account = v.account AND c.level = v.level AND c.name = v.name
             WHERE r.account = $1 AND r.endpoint >= $2 AND r.endpoint <= $3 AND r.released IS NOT NULL
                 AND v.revision > c.revision
             ORDER BY n.start_order",
        )
        .bind(self.id())
        .bind(first.as_str())
        .bind(last.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(DOING))?;
        let mut staged = Staged::new();
        for row in &rows {
            let endpoint = formed(row, DOING, ("rollout_devices", "endpoint"))?;
            let document = ConfigurationRow { released: Some(released(row)?), ..read(level(row)?, row)? };
            staged.entry(document.level.clone()).or_default().insert(endpoint, document);
        }
        Ok(staged)
    }

    /// The devices of a group whose name is in a range.
    pub(crate) async fn members_between(
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

fn released(row: &AnyRow) -> Result<Released, StoreError> {
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(DOING));
    let damaged = || StoreError::Damaged { table: "rollout_devices", column: "released" };
    Ok(Released {
        rollout: formed(row, DOING, ("rollout_devices", "rollout"))?,
        attempt: number("released")?.and_then(|attempt| u32::try_from(attempt).ok()).ok_or_else(damaged)?,
        generation: number("generation")?.map(from_sql),
    })
}
