//! The device directory: who the devices of an account are, how they stand, and what is installed there.

pub(crate) mod attributes;
pub(crate) mod counts;
pub(crate) mod decommission;
pub(crate) mod edits;
pub(crate) mod presence;
pub(crate) mod recovery;
pub(crate) mod resets;

use protocol_types::{Digest, EndpointName, Presence, Standing, UnixSeconds};
use serde_json::json;
use sqlx::{
    Any, AnyConnection, AssertSqlSafe, Row,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use crate::{
    AccountScope, ConfigurationLevel, Deadlines, DeviceReport, Promise, StoreError,
    configurations::staging::FORGET_RELEASED,
    error::cannot,
    filter::{Bind, Filter, Place, version_key},
    numbers::{from_sql, time, to_sql},
    rollouts::updates,
    rows::formed,
    transaction::Transaction,
};

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its name.
    pub endpoint: EndpointName,
    /// Whether it may take part.
    pub standing: Standing,
    /// Why it stands so, if somebody said.
    pub standing_reason: Option<String>,
    /// The factory authority that vouched for it when it last bootstrapped.
    pub authority: String,
    /// Serial number of its factory certificate.
    pub factory_serial: String,
    /// Whether it is registered now.
    pub connected: bool,
    /// When it was last heard.
    pub last_seen: Option<UnixSeconds>,
    /// What it promised when it last registered.
    pub promise: Promise,
    /// From when on it is late and lost; says nothing while it is connected.
    pub deadlines: Deadlines,
    /// When it joined.
    pub created: UnixSeconds,
    /// When a factory reset was asked for that it has not taken yet.
    pub reset_asked: Option<UnixSeconds>,
    /// What operators noted.
    pub note: String,
    /// Counts what operators change of it.
    pub revision: i64,
    /// What it says of itself.
    pub nameplate: Nameplate,
    /// What it last said about its software, and when.
    pub report: Option<(DeviceReport, UnixSeconds)>,
}

impl DeviceRow {
    /// How it stands to what it has promised.
    pub const fn presence(&self, now: UnixSeconds) -> Presence {
        if self.connected { Presence::Connected } else { self.deadlines.state(now) }
    }
}

/// What a device says of itself in object 3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nameplate {
    /// Resource 3/0/0.
    pub manufacturer: Option<String>,
    /// Resource 3/0/1.
    pub model: Option<String>,
    /// Resource 3/0/2.
    pub serial_number: Option<String>,
    /// Resource 3/0/3.
    pub firmware_version: Option<String>,
}

/// One component that a device reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentRow {
    /// `os`, or `application/NAME`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: Digest,
    /// What the device says of it, for example `ready`.
    pub state: Option<String>,
}

/// An operational certificate of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRow {
    /// Its serial number.
    pub serial: String,
    /// Serial number of the certificate that the device showed when it asked for this one.
    pub parent: String,
    /// Whether the parent was the factory certificate.
    pub from_factory: bool,
    /// When it was issued.
    pub issued: UnixSeconds,
    /// When it ends.
    pub not_after: UnixSeconds,
    /// When the device first used it.
    pub first_used: Option<UnixSeconds>,
}

const COLUMNS: &str =
    "d.endpoint, d.standing, d.standing_reason, d.authority, d.factory_serial, d.connected, d.last_seen, d.lifetime, d.sleeps, d.late_at, d.lost_at,
    d.created, d.reset_asked, d.note, d.revision, d.manufacturer, d.model, d.serial_number, d.firmware_version, r.phase AS said_phase,
    r.reason_code AS said_reason_code, r.reason_text AS said_reason_text, r.progress AS said_progress,
    r.rollout AS said_rollout, r.attempt AS said_attempt, r.digest AS said_digest, r.running_version AS said_running_version,
    r.running_digest AS said_running_digest, r.slot AS said_slot, r.floor AS said_floor, r.received AS said_received";
const TABLES: &str = "devices d LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint";

/// Reads the column `standing`.
pub(crate) fn standing(row: &AnyRow, doing: &'static str) -> Result<Standing, StoreError> {
    formed(row, doing, ("devices", "standing"))
}

fn read(row: &AnyRow) -> Result<DeviceRow, StoreError> {
    let doing = "read a device";
    let text = |column| row.try_get::<String, _>(column).map_err(cannot(doing));
    let optional = |column| row.try_get::<Option<String>, _>(column).map_err(cannot(doing));
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    Ok(DeviceRow {
        endpoint: formed(row, doing, ("devices", "endpoint"))?,
        standing: standing(row, doing)?,
        standing_reason: optional("standing_reason")?,
        authority: text("authority")?,
        factory_serial: text("factory_serial")?,
        connected: number("connected")? == Some(1),
        last_seen: number("last_seen")?.map(time),
        promise: Promise::new(
            u32::try_from(number("lifetime")?.unwrap_or_default()).unwrap_or(u32::MAX),
            number("sleeps")? == Some(1),
        ),
        deadlines: Deadlines {
            late: time(number("late_at")?.unwrap_or_default()),
            lost: time(number("lost_at")?.unwrap_or_default()),
        },
        created: time(number("created")?.unwrap_or_default()),
        reset_asked: number("reset_asked")?.map(time),
        note: text("note")?,
        revision: number("revision")?.unwrap_or_default(),
        nameplate: Nameplate {
            manufacturer: optional("manufacturer")?,
            model: optional("model")?,
            serial_number: optional("serial_number")?,
            firmware_version: optional("firmware_version")?,
        },
        report: updates::read_report(row)?.zip(number("said_received")?.map(time)),
    })
}

/// The query with the values of a filter's placeholders.
pub(crate) fn bound<'q>(mut query: Query<'q, Any, AnyArguments>, binds: Vec<Bind>) -> Query<'q, Any, AnyArguments> {
    for bind in binds {
        query = match bind {
            Bind::Text(text) => query.bind(text),
            Bind::Integer(number) => query.bind(number),
            Bind::Real(number) => query.bind(number),
        };
    }
    query
}

impl AccountScope {
    /// One device.
    pub async fn device(&self, endpoint: &EndpointName) -> Result<DeviceRow, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE d.account = $1 AND d.endpoint = $2");
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(endpoint.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("read a device"))?;
        row.as_ref().map_or_else(|| Err(StoreError::NotFound { kind: "device", id: endpoint.to_string() }), read)
    }

    /// At most `limit` devices that the filter is true for and whose name comes after `after`.
    pub async fn devices_after(
        &self,
        after: &str,
        filter: &Filter,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError> {
        let doing = "list devices";
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let filter = self.resolved(&mut connection, filter).await?;
        let clause = filter.clause(Place { report: "r", first: 4, now });
        let sql = format!(
            "SELECT {COLUMNS} FROM {TABLES} WHERE d.account = $1 AND d.endpoint > $2 AND {} ORDER BY d.endpoint LIMIT $3",
            clause.sql
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(after).bind(i64::from(limit));
        let rows = bound(query, clause.binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        rows.iter().map(read).collect()
    }

    /// The operational certificates of a device that have not ended, the newest first.
    pub async fn device_certificates(
        &self,
        endpoint: &EndpointName,
        now: UnixSeconds,
    ) -> Result<Vec<CertificateRow>, StoreError> {
        let doing = "list the certificates of a device";
        let rows = sqlx::query(
            "SELECT serial, parent, from_factory, issued, not_after, first_used FROM device_certificates
             WHERE account = $1 AND endpoint = $2 AND not_after > $3 ORDER BY number DESC",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(now.0))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
                Ok(CertificateRow {
                    serial: row.try_get("serial").map_err(cannot(doing))?,
                    parent: row.try_get("parent").map_err(cannot(doing))?,
                    from_factory: from_sql(number("from_factory")?) != 0,
                    issued: time(number("issued")?),
                    not_after: time(number("not_after")?),
                    first_used: row.try_get::<Option<i64>, _>("first_used").map_err(cannot(doing))?.map(time),
                })
            })
            .collect()
    }

    /// What a device reports as installed, by name.
    pub async fn device_components(&self, endpoint: &EndpointName) -> Result<Vec<ComponentRow>, StoreError> {
        let mut reader = self.readers().acquire().await.map_err(cannot("list the components of a device"))?;
        self.components_on(&mut reader, endpoint).await
    }

    async fn components_on(
        &self,
        sql: &mut AnyConnection,
        endpoint: &EndpointName,
    ) -> Result<Vec<ComponentRow>, StoreError> {
        let doing = "list the components of a device";
        let rows = sqlx::query(
            "SELECT name, version, digest, state FROM device_components
             WHERE account = $1 AND endpoint = $2 ORDER BY name",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_all(sql)
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                Ok(ComponentRow {
                    name: row.try_get("name").map_err(cannot(doing))?,
                    version: row.try_get("version").map_err(cannot(doing))?,
                    digest: formed(row, doing, ("device_components", "digest"))?,
                    state: row.try_get("state").map_err(cannot(doing))?,
                })
            })
            .collect()
    }

    /// Replaces what a device reports as installed; the same list a second time writes nothing.
    pub(crate) async fn set_components_on(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        components: &[ComponentRow],
    ) -> Result<(), StoreError> {
        let mut sorted = components.to_vec();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.dedup_by(|a, b| a.name == b.name);
        if self.components_on(tx.sql(), endpoint).await? == sorted {
            return Ok(());
        }
        let doing = "record the components of a device";
        sqlx::query("DELETE FROM device_components WHERE account = $1 AND endpoint = $2")
            .bind(self.id())
            .bind(endpoint.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        for component in &sorted {
            // A device that was deleted meanwhile gets no rows.
            sqlx::query(
                "INSERT INTO device_components (account, endpoint, name, version, digest, state, version_key)
                 SELECT account, endpoint, $3, $4, $5, $6, $7 FROM devices WHERE account = $1 AND endpoint = $2",
            )
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(component.name.as_str())
            .bind(component.version.as_str())
            .bind(component.digest.to_string())
            .bind(component.state.as_deref())
            .bind(version_key(&component.version))
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        }
        tx.changed(self.device_changed(endpoint));
        Ok(())
    }

    /// Replaces what one device reports as installed in a transaction of its own.
    #[cfg(test)]
    pub(crate) async fn set_components(
        &self,
        endpoint: &EndpointName,
        components: &[ComponentRow],
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.set_components_on(&mut tx, endpoint, components).await?;
        tx.commit().await
    }

    /// Records what a device says of itself.
    pub async fn set_nameplate(&self, endpoint: &EndpointName, nameplate: &Nameplate) -> Result<(), StoreError> {
        if self.device(endpoint).await?.nameplate == *nameplate {
            return Ok(());
        }
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE devices SET manufacturer = $3, model = $4, serial_number = $5, firmware_version = $6
             WHERE account = $1 AND endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(nameplate.manufacturer.as_deref())
        .bind(nameplate.model.as_deref())
        .bind(nameplate.serial_number.as_deref())
        .bind(nameplate.firmware_version.as_deref())
        .execute(tx.sql())
        .await
        .map_err(cannot("record what a device says of itself"))?;
        tx.commit().await
    }

    /// Keeps a device out until it is resumed.
    pub async fn suspend_device(
        &self,
        endpoint: &EndpointName,
        reason: &str,
        now: UnixSeconds,
    ) -> Result<DeviceRow, StoreError> {
        let mut tx = self.write().await?;
        self.stand(&mut tx, endpoint, (Standing::Suspended, Some(reason).filter(|text| !text.is_empty())), now).await?;
        tx.commit().await?;
        self.device(endpoint).await
    }

    /// Lets a suspended or quarantined device take part again.
    pub async fn resume_device(&self, endpoint: &EndpointName, now: UnixSeconds) -> Result<DeviceRow, StoreError> {
        let mut tx = self.write().await?;
        self.stand(&mut tx, endpoint, (Standing::Active, None), now).await?;
        tx.commit().await?;
        self.device(endpoint).await
    }

    /// Changes the standing of a device; answers whether it was another one. A decommissioned device keeps its own.
    pub(crate) async fn stand(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (standing, reason): (Standing, Option<&str>),
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE devices SET standing = $3, standing_reason = $4
             WHERE account = $1 AND endpoint = $2 AND standing <> $3 AND standing <> 'decommissioned'",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(standing.as_str())
        .bind(reason)
        .execute(tx.sql())
        .await
        .map_err(cannot("change the standing of a device"))?;
        if done.rows_affected() > 0 {
            let kind = if standing == Standing::Active { "device.resumed" } else { "device.suspended" };
            self.standing_changed(tx, endpoint);
            self.tell(tx, endpoint, (kind, json!({ "reason": reason })), now).await?;
        } else if self.is_decommissioned(tx, endpoint).await? {
            let state = "decommissioned; only a new enrolment lets it come back".to_owned();
            return Err(StoreError::WrongState { kind: "device", id: endpoint.to_string(), state });
        }
        Ok(done.rows_affected() > 0)
    }

    async fn is_decommissioned(&self, tx: &mut Transaction, endpoint: &EndpointName) -> Result<bool, StoreError> {
        sqlx::query("SELECT 1 FROM devices WHERE account = $1 AND endpoint = $2 AND standing = 'decommissioned'")
            .bind(self.id())
            .bind(endpoint.as_str())
            .fetch_optional(tx.sql())
            .await
            .map(|row| row.is_some())
            .map_err(cannot("look at the standing of a device"))
    }

    /// Forgets a device, its certificates, its groups and what it should run.
    pub async fn delete_device(&self, endpoint: &EndpointName, now: UnixSeconds) -> Result<(), StoreError> {
        let doing = "delete a device";
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM devices WHERE account = $1 AND endpoint = $2")
            .bind(self.id())
            .bind(endpoint.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "device", id: endpoint.to_string() });
        }
        for sql in [
            "DELETE FROM group_members WHERE account = $1 AND endpoint = $2",
            "DELETE FROM desired_releases WHERE account = $1 AND endpoint = $2",
            "DELETE FROM device_reports WHERE account = $1 AND endpoint = $2",
            FORGET_RELEASED,
        ] {
            sqlx::query(sql).bind(self.id()).bind(endpoint.as_str()).execute(tx.sql()).await.map_err(cannot(doing))?;
        }
        self.forget_configuration(&mut tx, &ConfigurationLevel::Device(endpoint.clone()), now).await?;
        self.standing_changed(&mut tx, endpoint);
        self.tell(&mut tx, endpoint, ("device.deleted", json!({})), now).await?;
        tx.commit().await
    }
}
