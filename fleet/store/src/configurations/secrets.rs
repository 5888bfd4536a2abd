//! Secrets of applications: sealed for the service by level, and sealed for each device. Never holds one in the clear and never opens one.

use std::collections::BTreeMap;

use protocol_types::{AppName, EndpointName, SecretName, UnixSeconds, recovery::RecoveryKey};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Change, ConfigurationLevel, ConfigurationRow, EventDraft, StoreError,
    configurations::level,
    error::cannot,
    events,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

const DOING: &str = "read secrets";
const TABLE: &str = "configuration_secrets";

/// Which of two secrets of one name a device is given: level, priority of the document beside it, name of the level; the highest wins.
type Rank = (u8, i64, String);

/// A secret of a level, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRow {
    /// Whose it is.
    pub level: ConfigurationLevel,
    /// The application that is given it.
    pub application: AppName,
    /// Its name.
    pub name: SecretName,
    /// Counts the values that it has had, from 1.
    pub version: u64,
    /// When it got the present one.
    pub changed: UnixSeconds,
}

/// A secret with its value, sealed by the service for itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedRow {
    /// The secret.
    pub secret: SecretRow,
    /// The sealed value.
    pub sealed: String,
}

impl std::fmt::Debug for SealedRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedRow").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// A secret as it was sealed to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentSecret {
    /// The application.
    pub application: AppName,
    /// Its name.
    pub name: SecretName,
    /// The level and the name that it comes from, as in `group/doors`.
    pub source: String,
    /// Its version there.
    pub version: u64,
    /// The key of the device that it was sealed to.
    pub recipient: RecoveryKey,
    /// The sealed value.
    pub sealed: String,
}

impl ConfigurationLevel {
    /// The most secrets of one level.
    pub const MAX_SECRETS: u64 = 32;

    /// Tells levels apart in one text, as in `group/doors`.
    pub fn source(&self) -> String {
        format!("{}/{}", self.kind(), self.name())
    }
}

fn read_secret(row: &AnyRow) -> Result<SecretRow, StoreError> {
    let number = |column| row.try_get::<i64, _>(column).map_err(cannot(DOING));
    Ok(SecretRow {
        level: level(row)?,
        application: formed(row, DOING, (TABLE, "application"))?,
        name: formed(row, DOING, (TABLE, "secret"))?,
        version: from_sql(number("version")?),
        changed: time(number("changed")?),
    })
}

fn read_sealed(row: &AnyRow) -> Result<SealedRow, StoreError> {
    Ok(SealedRow { secret: read_secret(row)?, sealed: row.try_get("sealed").map_err(cannot(DOING))? })
}

impl AccountScope {
    /// The secrets of a level, by application and name.
    pub async fn secrets(&self, level: &ConfigurationLevel) -> Result<Vec<SecretRow>, StoreError> {
        self.configuration(level).await?;
        let rows = sqlx::query(
            "SELECT level, name, application, secret, version, changed FROM configuration_secrets
             WHERE account = $1 AND level = $2 AND name = $3 ORDER BY application, secret",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(DOING))?;
        rows.iter().map(read_secret).collect()
    }

    /// One secret of a level, sealed; `None` if there is none.
    pub async fn sealed_secret(
        &self,
        level: &ConfigurationLevel,
        (application, name): (&AppName, &SecretName),
    ) -> Result<Option<SealedRow>, StoreError> {
        let row = sqlx::query(
            "SELECT level, name, application, secret, version, changed, sealed FROM configuration_secrets
             WHERE account = $1 AND level = $2 AND name = $3 AND application = $4 AND secret = $5",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(application.as_str())
        .bind(name.as_str())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot(DOING))?;
        row.as_ref().map(read_sealed).transpose()
    }

    /// Keeps a value of a secret, which was sealed as this version: the one after `before`. Refused if somebody else was faster.
    pub async fn set_secret(
        &self,
        level: &ConfigurationLevel,
        (application, name): (&AppName, &SecretName),
        (before, sealed): (u64, &str),
        now: UnixSeconds,
    ) -> Result<SecretRow, StoreError> {
        let doing = "keep a secret";
        let mut tx = self.write().await?;
        self.must_have_level(&mut tx, level).await?;
        let changed = if before == 0 {
            self.may_have_another_secret(&mut tx, level).await?;
            sqlx::query(
                "INSERT INTO configuration_secrets (account, level, name, application, secret, version, sealed, changed)
                 VALUES ($1, $2, $3, $4, $5, $8 + 1, $6, $7) ON CONFLICT (account, level, name, application, secret) DO NOTHING",
            )
        } else {
            sqlx::query(
                "UPDATE configuration_secrets SET version = version + 1, sealed = $6, changed = $7
                 WHERE account = $1 AND level = $2 AND name = $3 AND application = $4 AND secret = $5 AND version = $8",
            )
        }
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(application.as_str())
        .bind(name.as_str())
        .bind(sealed)
        .bind(to_sql(now.0))
        .bind(to_sql(before))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        if changed.rows_affected() == 0 {
            let id = format!("{application}/{name}");
            return Err(StoreError::Stale { kind: "secret", id, now: to_sql(before.saturating_add(1)) });
        }
        let version = before.saturating_add(1);
        let data = json!({ "level": level.kind(), "application": application, "secret": name, "version": version });
        self.tell_secret(&mut tx, ("configuration.secret_set", level), data, now).await?;
        tx.commit().await?;
        let (application, name) = (application.clone(), name.clone());
        Ok(SecretRow { level: level.clone(), application, name, version, changed: now })
    }

    /// Removes a secret of a level.
    pub async fn delete_secret(
        &self,
        level: &ConfigurationLevel,
        (application, name): (&AppName, &SecretName),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "DELETE FROM configuration_secrets
             WHERE account = $1 AND level = $2 AND name = $3 AND application = $4 AND secret = $5",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(application.as_str())
        .bind(name.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot("remove a secret"))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "secret", id: format!("{application}/{name}") });
        }
        // A secret of this name that is set later begins with the same version, and is another one.
        sqlx::query(
            "DELETE FROM device_secrets WHERE account = $1 AND source = $2 AND application = $3 AND secret = $4",
        )
        .bind(self.id())
        .bind(level.source())
        .bind(application.as_str())
        .bind(name.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot("remove what was sealed of a secret"))?;
        let data = json!({ "level": level.kind(), "application": application, "secret": name });
        self.tell_secret(&mut tx, ("configuration.secret_removed", level), data, now).await?;
        tx.commit().await
    }

    async fn tell_secret(
        &self,
        tx: &mut Transaction,
        (kind, level): (&str, &ConfigurationLevel),
        data: serde_json::Value,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        tx.changed(Change::Configuration(self.account.clone()));
        events::append(tx, self, now, EventDraft { kind, subject: level.subject(), data }).await
    }

    async fn may_have_another_secret(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
    ) -> Result<(), StoreError> {
        let doing = "count secrets";
        let row = sqlx::query(
            "SELECT COUNT(*) AS secrets FROM configuration_secrets WHERE account = $1 AND level = $2 AND name = $3",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .fetch_one(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let count: i64 = row.try_get("secrets").map_err(cannot(doing))?;
        if count >= to_sql(ConfigurationLevel::MAX_SECRETS) {
            return Err(StoreError::TooMany { what: "secrets of one level", most: ConfigurationLevel::MAX_SECRETS });
        }
        Ok(())
    }

    /// Forgets the secrets of a group or device that goes.
    pub(crate) async fn forget_secrets(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM configuration_secrets WHERE account = $1 AND level = $2 AND name = $3")
            .bind(self.id())
            .bind(level.kind())
            .bind(level.name())
            .execute(tx.sql())
            .await
            .map_err(cannot("forget secrets"))?;
        sqlx::query("DELETE FROM device_secrets WHERE account = $1 AND source = $2")
            .bind(self.id())
            .bind(level.source())
            .execute(tx.sql())
            .await
            .map_err(cannot("forget what was sealed of secrets"))?;
        Ok(())
    }

    /// The secrets that a device has: of several levels that have one of the same name, that of the level that comes last when documents
    /// are merged.
    pub async fn secrets_of_device(
        &self,
        endpoint: &EndpointName,
        now: UnixSeconds,
    ) -> Result<Vec<SealedRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT s.level AS level, s.name AS name, s.application AS application, s.secret AS secret, s.version AS version,
                    s.changed AS changed, s.sealed AS sealed, COALESCE(c.priority, $3) AS priority
             FROM configuration_secrets s
             LEFT JOIN configurations c ON c.account = s.account AND c.level = s.level AND c.name = s.name
             WHERE s.account = $1 AND (s.level IN ('account', 'group') OR s.level = 'device' AND s.name = $2)",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(i64::from(ConfigurationRow::PRIORITY))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(DOING))?;
        let mut is_member: BTreeMap<String, bool> = BTreeMap::new();
        let mut found: BTreeMap<(AppName, SecretName), (Rank, SealedRow)> = BTreeMap::new();
        for row in &rows {
            let sealed = read_sealed(row)?;
            if let ConfigurationLevel::Group(group) = &sealed.secret.level {
                let known = is_member.get(group.as_str()).copied();
                let is = match known {
                    Some(is) => is,
                    None => self.members_between(group, (endpoint, endpoint), now).await?.contains(endpoint),
                };
                is_member.insert(group.to_string(), is);
                if !is {
                    continue;
                }
            }
            let rank = match sealed.secret.level {
                ConfigurationLevel::Account => 0,
                ConfigurationLevel::Group(_) => 1,
                ConfigurationLevel::Device(_) => 2,
            };
            let priority = row.try_get::<i64, _>("priority").map_err(cannot(DOING))?;
            let order = (rank, priority, sealed.secret.level.name().to_owned());
            let key = (sealed.secret.application.clone(), sealed.secret.name.clone());
            match found.get(&key) {
                Some((other, _)) if *other > order => {}
                Some(_) | None => drop(found.insert(key, (order, sealed))),
            }
        }
        Ok(found.into_values().map(|(_, sealed)| sealed).collect())
    }

    /// The key to which secrets of a device are sealed; `None` if it has not said one.
    pub async fn sealing_key(&self, endpoint: &EndpointName) -> Result<Option<RecoveryKey>, StoreError> {
        let row = sqlx::query("SELECT key FROM device_sealing_keys WHERE account = $1 AND endpoint = $2")
            .bind(self.id())
            .bind(endpoint.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot(DOING))?;
        row.map(|row| formed(&row, DOING, ("device_sealing_keys", "key"))).transpose()
    }

    /// Keeps the key that a device says; another one than before makes its secrets be sealed anew.
    pub async fn record_sealing_key(
        &self,
        endpoint: &EndpointName,
        key: &RecoveryKey,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        if self.sealing_key(endpoint).await? == Some(*key) {
            return Ok(());
        }
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO device_sealing_keys (account, endpoint, key, received)
             SELECT account, endpoint, $3, $4 FROM devices WHERE account = $1 AND endpoint = $2
             ON CONFLICT (account, endpoint) DO UPDATE SET key = excluded.key, received = excluded.received",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(key.to_string())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("keep the key of a device"))?;
        self.tell(&mut tx, endpoint, ("device.sealing_key", json!({ "key": key.to_string() })), now).await?;
        tx.changed(Change::Released(self.account.clone(), endpoint.clone()));
        tx.commit().await
    }

    /// What was sealed to a device before.
    pub async fn sent_secrets(&self, endpoint: &EndpointName) -> Result<Vec<SentSecret>, StoreError> {
        let rows = sqlx::query(
            "SELECT application, secret, source, version, recipient, sealed FROM device_secrets
             WHERE account = $1 AND endpoint = $2 ORDER BY application, secret",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(DOING))?;
        let text = |row: &AnyRow, column| row.try_get::<String, _>(column).map_err(cannot(DOING));
        rows.iter()
            .map(|row| {
                Ok(SentSecret {
                    application: formed(row, DOING, ("device_secrets", "application"))?,
                    name: formed(row, DOING, ("device_secrets", "secret"))?,
                    source: text(row, "source")?,
                    version: from_sql(row.try_get("version").map_err(cannot(DOING))?),
                    recipient: formed(row, DOING, ("device_secrets", "recipient"))?,
                    sealed: text(row, "sealed")?,
                })
            })
            .collect()
    }

    /// Keeps exactly these as what is sealed to a device, each beside the secret that it was sealed from. One whose secret is another by
    /// now, or gone, is left out: the next secret of the name may have the same version.
    pub async fn keep_sent_secrets(
        &self,
        endpoint: &EndpointName,
        sent: &[(&SealedRow, &SentSecret)],
    ) -> Result<(), StoreError> {
        let doing = "keep what was sealed to a device";
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM device_secrets WHERE account = $1 AND endpoint = $2")
            .bind(self.id())
            .bind(endpoint.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        for (from, one) in sent {
            sqlx::query(
                "INSERT INTO device_secrets (account, endpoint, application, secret, source, version, recipient, sealed)
                 SELECT d.account, d.endpoint, s.application, s.secret, $3, s.version, $4, $5
                 FROM devices d JOIN configuration_secrets s ON s.account = d.account
                 WHERE d.account = $1 AND d.endpoint = $2 AND s.level = $6 AND s.name = $7
                     AND s.application = $8 AND s.secret = $9 AND s.sealed = $10",
            )
            .bind(self.id())
            .bind(endpoint.as_str())
            .bind(one.source.as_str())
            .bind(one.recipient.to_string())
            .bind(one.sealed.as_str())
            .bind(from.secret.level.kind())
            .bind(from.secret.level.name())
            .bind(one.application.as_str())
            .bind(one.name.as_str())
            .bind(from.sealed.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot(doing))?;
        }
        tx.commit().await
    }
}
