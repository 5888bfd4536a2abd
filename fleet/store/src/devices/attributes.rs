//! What operators say of a device: attributes, tags and a note. Devices never see them.

use std::collections::BTreeMap;

use protocol_types::{EndpointName, UnixSeconds};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Change, DeviceRow, StoreError,
    error::{at_revision, cannot},
    numbers::from_sql,
    rows::formed,
    transaction::Transaction,
};

/// Most attributes of a device.
pub const MAX_ATTRIBUTES: u64 = 100;
/// Most tags of a device.
pub const MAX_TAGS: u64 = 50;
/// The longest text of an attribute, in characters.
pub(crate) const MAX_VALUE_CHARACTERS: usize = 200;

/// Tags: 1 to 64 letters, digits, `_`, `-`, `.` and `:`.
pub fn is_tag(tag: &str) -> bool {
    (1..=64).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'))
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A number that is finite.
    Number(f64),
}

/// What changes of a device; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceChange {
    /// The note from now on.
    pub note: Option<String>,
    /// Attributes by key; those without a value go.
    pub attributes: Vec<(String, Option<AttributeValue>)>,
    /// Tags that it has from now on.
    pub add_tags: Vec<String>,
    /// Tags that it has no more.
    pub remove_tags: Vec<String>,
}

/// Attributes and tags of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// By key.
    pub attributes: BTreeMap<String, AttributeValue>,
    /// In the order of their names.
    pub tags: Vec<String>,
}

fn read_value(row: &AnyRow) -> Result<AttributeValue, sqlx::Error> {
    let number: Option<f64> = row.try_get("number")?;
    Ok(match number {
        Some(number) => AttributeValue::Number(number),
        None => AttributeValue::Text(row.try_get("value")?),
    })
}

impl AccountScope {
    /// Attributes and tags of these devices; those without any are left out.
    pub async fn labels(&self, endpoints: &[EndpointName]) -> Result<BTreeMap<EndpointName, Labels>, StoreError> {
        let doing = "read attributes and tags";
        let mut found: BTreeMap<EndpointName, Labels> = BTreeMap::new();
        if endpoints.is_empty() {
            return Ok(found);
        }
        let places: Vec<String> = (0..endpoints.len()).map(|index| format!("${}", index + 2)).collect();
        let places = places.join(", ");
        let rows_of = async |columns: &str, table: &str| {
            let sql = format!(
                "SELECT endpoint, {columns} FROM {table} WHERE account = $1 AND endpoint IN ({places}) ORDER BY 1, 2"
            );
            let mut query = sqlx::query(AssertSqlSafe(sql)).bind(self.id());
            for endpoint in endpoints {
                query = query.bind(endpoint.as_str());
            }
            query.fetch_all(self.readers()).await.map_err(cannot(doing))
        };
        for row in rows_of("key, value, number", "device_attributes").await? {
            let endpoint = formed(&row, doing, ("device_attributes", "endpoint"))?;
            let key = row.try_get("key").map_err(cannot(doing))?;
            let value = read_value(&row).map_err(cannot(doing))?;
            found.entry(endpoint).or_default().attributes.insert(key, value);
        }
        for row in rows_of("tag", "device_tags").await? {
            let endpoint = formed(&row, doing, ("device_tags", "endpoint"))?;
            found.entry(endpoint).or_default().tags.push(row.try_get("tag").map_err(cannot(doing))?);
        }
        Ok(found)
    }

    /// Changes what operators say of a device, if it is still at the revision `at`.
    pub async fn change_device(
        &self,
        endpoint: &EndpointName,
        change: &DeviceChange,
        at: Option<i64>,
        now: UnixSeconds,
    ) -> Result<DeviceRow, StoreError> {
        let mut tx = self.write().await?;
        self.change_device_on(&mut tx, endpoint, (change, at), now).await?;
        tx.commit().await?;
        self.device(endpoint).await
    }

    /// Changes what operators say of a device. After a refusal the transaction must not be committed.
    pub(crate) async fn change_device_on(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (change, at): (&DeviceChange, Option<i64>),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        self.next_device_revision(tx, endpoint, at).await?;
        if let Some(note) = &change.note {
            sqlx::query("UPDATE devices SET note = $3 WHERE account = $1 AND endpoint = $2")
                .bind(self.id())
                .bind(endpoint.as_str())
                .bind(note.as_str())
                .execute(tx.sql())
                .await
                .map_err(cannot("change a note"))?;
        }
        for (key, value) in &change.attributes {
            self.set_attribute(tx, endpoint, (key, value.as_ref())).await?;
        }
        for tag in &change.add_tags {
            sqlx::query(
                "INSERT INTO device_tags (account, endpoint, tag) VALUES ($1, $2, $3)
                 ON CONFLICT (account, endpoint, tag) DO NOTHING",
            )
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(tag.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot("tag a device"))?;
        }
        for tag in &change.remove_tags {
            sqlx::query("DELETE FROM device_tags WHERE account = $1 AND endpoint = $2 AND tag = $3")
                .bind(self.id())
                .bind(endpoint.as_str())
                .bind(tag.as_str())
                .execute(tx.sql())
                .await
                .map_err(cannot("take a tag from a device"))?;
        }
        self.hold_to(tx, endpoint, ("attributes", "device_attributes", MAX_ATTRIBUTES)).await?;
        self.hold_to(tx, endpoint, ("tags", "device_tags", MAX_TAGS)).await?;
        let keys: Vec<&str> = change.attributes.iter().map(|(key, _)| key.as_str()).collect();
        let data = json!({ "attributes": keys, "note": change.note.is_some(),
                           "tags": { "added": change.add_tags, "removed": change.remove_tags } });
        tx.changed(self.device_changed(endpoint));
        tx.changed(Change::Labels(self.account.clone(), endpoint.clone()));
        self.tell(tx, endpoint, ("device.changed", data), now).await
    }

    /// Counts a change that an operator makes of a device.
    async fn next_device_revision(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        at: Option<i64>,
    ) -> Result<(), StoreError> {
        let doing = "change a device";
        let row = sqlx::query(
            "UPDATE devices SET revision = revision + 1 WHERE account = $1 AND endpoint = $2 RETURNING revision",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?
        .ok_or_else(|| StoreError::NotFound { kind: "device", id: endpoint.to_string() })?;
        let was = row.try_get::<i64, _>("revision").map_err(cannot(doing))? - 1;
        at_revision(("device", endpoint.as_str()), at, was)
    }

    async fn set_attribute(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (key, value): (&str, Option<&AttributeValue>),
    ) -> Result<(), StoreError> {
        let Some(value) = value else {
            return sqlx::query("DELETE FROM device_attributes WHERE account = $1 AND endpoint = $2 AND key = $3")
                .bind(self.id())
                .bind(endpoint.as_str())
                .bind(key)
                .execute(tx.sql())
                .await
                .map(drop)
                .map_err(cannot("remove an attribute"));
        };
        // PostgreSQL's prepared statements know one type a parameter, so an attribute without a number has a statement of its own.
        let (text, number, place) = match value {
            AttributeValue::Text(text) => (text.clone(), None, "NULL"),
            AttributeValue::Number(number) => (number.to_string(), Some(*number), "$5"),
        };
        let sql = format!(
            "INSERT INTO device_attributes (account, endpoint, key, value, number) VALUES ($1, $2, $3, $4, {place})
             ON CONFLICT (account, endpoint, key) DO UPDATE SET value = excluded.value, number = excluded.number"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(endpoint.as_str()).bind(key).bind(text);
        match number {
            Some(number) => query.bind(number),
            None => query,
        }
        .execute(tx.sql())
        .await
        .map(drop)
        .map_err(cannot("set an attribute"))
    }

    /// Refuses a change after which a device has more of something than it may.
    async fn hold_to(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (what, table, most): (&'static str, &str, u64),
    ) -> Result<(), StoreError> {
        let doing = "count what a device has";
        let sql = format!("SELECT COUNT(*) AS n FROM {table} WHERE account = $1 AND endpoint = $2");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(endpoint.as_str())
            .fetch_one(tx.sql())
            .await
            .map_err(cannot(doing))?;
        match from_sql(row.try_get("n").map_err(cannot(doing))?) {
            n if n > most => Err(StoreError::TooMany { what, most }),
            _ => Ok(()),
        }
    }
}
