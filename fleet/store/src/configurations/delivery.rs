//! The configuration that each device was given, and what it said of it. Never puts a configuration together.

use protocol_types::{ConfigurationState, Digest, EndpointName, Reason, UnixSeconds};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Change, Released, StoreError,
    error::cannot,
    numbers::{from_sql, time, to_sql},
    rollouts::updates::read_reason,
    rows::{self, formed, parsed},
};

/// What a device says of its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationReport {
    /// What became of the one that it was given last.
    pub state: ConfigurationState,
    /// The generation that the state belongs to.
    pub generation: u64,
    /// Digest of the document in force; none if it never had one.
    pub digest: Option<Digest>,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
}

/// The configuration that a device was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenConfiguration {
    /// Counts every change, from 1.
    pub generation: u64,
    /// The last generation that the device has taken; 0 if none.
    pub acknowledged: u64,
    /// The document, a JSON object.
    pub document: String,
    /// Its digest.
    pub digest: Digest,
    /// When it changed.
    pub changed: UnixSeconds,
    /// What the device said last, and when.
    pub report: Option<(ConfigurationReport, UnixSeconds)>,
    /// The document that the device last said to be in force.
    pub confirmed: Option<String>,
}

impl GivenConfiguration {
    /// Whether the device has refused it or taken it back.
    fn is_given_up(&self) -> bool {
        self.report.as_ref().is_some_and(|(said, _)| {
            let ended = matches!(said.state, ConfigurationState::Refused | ConfigurationState::Undone);
            ended && said.generation == self.generation
        })
    }
}

const TABLE: &str = "device_configurations";
const COLUMNS: &str = "generation, acknowledged, document, digest, changed, said_state, said_generation, said_digest,
    said_reason_code, said_reason_text, received, confirmed";

fn read(row: &AnyRow) -> Result<GivenConfiguration, StoreError> {
    let doing = "read the configuration of a device";
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
    let maybe = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let report = match parsed(row, "said_state")? {
        None => None,
        Some(state) => {
            let report = ConfigurationReport {
                state,
                generation: from_sql(maybe("said_generation")?.unwrap_or_default()),
                digest: parsed(row, "said_digest")?,
                reason: read_reason(row, "said_reason_code", "said_reason_text")?,
            };
            Some((report, time(maybe("received")?.unwrap_or_default())))
        }
    };
    Ok(GivenConfiguration {
        generation: from_sql(number("generation")?),
        acknowledged: from_sql(number("acknowledged")?),
        document: row.try_get("document").map_err(cannot(doing))?,
        digest: formed(row, doing, (TABLE, "digest"))?,
        changed: time(number("changed")?),
        report,
        confirmed: rows::text(row, "confirmed")?,
    })
}

impl AccountScope {
    /// The configuration that a device was given; `None` if none ever was.
    pub async fn given_configuration(&self, endpoint: &EndpointName) -> Result<Option<GivenConfiguration>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM device_configurations WHERE account = $1 AND endpoint = $2"
        )))
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read the configuration of a device"))?;
        row.as_ref().map(read).transpose()
    }

    /// Gives a device this document, which holds what rollouts have `released` to it. The one that it has been given already makes no
    /// new generation, unless the device gave it up and a rollout tries again.
    pub async fn give_configuration(
        &self,
        endpoint: &EndpointName,
        document: &str,
        released: &[Released],
        now: UnixSeconds,
    ) -> Result<Option<GivenConfiguration>, StoreError> {
        let doing = "give a device its configuration";
        let digest = Digest::of(document.as_bytes());
        let before = self.given_configuration(endpoint).await?;
        let is_news = released.iter().any(|one| one.generation.is_none());
        let same = before.filter(|given| given.digest == digest && !(is_news && given.is_given_up()));
        match same {
            Some(given) if !is_news => return Ok(Some(given)),
            Some(given) => {
                let mut tx = self.write().await?;
                self.note_given(&mut tx, endpoint, (released, given.generation)).await?;
                tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
                tx.commit().await?;
                return Ok(Some(given));
            }
            None => {}
        }
        let mut tx = self.write().await?;
        // A device that was deleted meanwhile gets no row.
        let row = sqlx::query(
            "INSERT INTO device_configurations (account, endpoint, generation, document, digest, changed)
             SELECT account, endpoint, 1, $3, $4, $5 FROM devices WHERE account = $1 AND endpoint = $2
             ON CONFLICT (account, endpoint) DO UPDATE SET generation = device_configurations.generation + 1,
                 document = excluded.document, digest = excluded.digest, changed = excluded.changed
             RETURNING generation",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(document)
        .bind(digest.to_string())
        .bind(to_sql(now.0))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if let Some(row) = row {
            let generation = from_sql(row.try_get("generation").map_err(cannot(doing))?);
            self.note_given(&mut tx, endpoint, (released, generation)).await?;
            tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
            self.tell(&mut tx, endpoint, ("device.configuration_given", json!({ "digest": digest })), now).await?;
        }
        tx.commit().await?;
        self.given_configuration(endpoint).await
    }

    /// Notes that the device has taken the configuration of this generation; an older one changes nothing.
    pub async fn acknowledge_configuration(&self, endpoint: &EndpointName, generation: u64) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE device_configurations SET acknowledged = $3
             WHERE account = $1 AND endpoint = $2 AND acknowledged < $3 AND generation >= $3",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(generation))
        .execute(tx.sql())
        .await
        .map_err(cannot("acknowledge a configuration"))?;
        tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
        tx.commit().await
    }

    /// Keeps what a device says of its configuration; the same again changes nothing.
    pub async fn record_configuration(
        &self,
        endpoint: &EndpointName,
        report: &ConfigurationReport,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let Some(given) = self.given_configuration(endpoint).await? else { return Ok(()) };
        if given.report.as_ref().is_some_and(|(before, _)| before == report) {
            return Ok(());
        }
        let confirms = report.digest == Some(given.digest) && report.state == ConfigurationState::Confirmed;
        let confirmed = if confirms { Some(given.document.as_str()) } else { given.confirmed.as_deref() };
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE device_configurations SET said_state = $3, said_generation = $4, said_digest = $5,
                 said_reason_code = $6, said_reason_text = $7, received = $8, confirmed = $9
             WHERE account = $1 AND endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(report.state.as_str())
        .bind(to_sql(report.generation))
        .bind(report.digest.map(|digest| digest.to_string()))
        .bind(report.reason.as_ref().map(|reason| reason.code.as_str()))
        .bind(report.reason.as_ref().map(|reason| reason.text.as_str()))
        .bind(to_sql(now.0))
        .bind(confirmed)
        .execute(tx.sql())
        .await
        .map_err(cannot("record the configuration of a device"))?;
        let is_other = report.generation == given.generation && report.digest != Some(given.digest);
        let kind = match report.state {
            ConfigurationState::Confirmed if is_other => Some("device.configuration_drifted"),
            ConfigurationState::Confirmed => Some("device.configuration_confirmed"),
            ConfigurationState::Refused => Some("device.configuration_refused"),
            ConfigurationState::Undone => Some("device.configuration_undone"),
            ConfigurationState::None | ConfigurationState::Trial => None,
        };
        if let Some(kind) = kind {
            let data = json!({ "generation": report.generation, "reason": report.reason });
            self.tell(&mut tx, endpoint, (kind, data), now).await?;
        }
        tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
        tx.commit().await
    }
}
