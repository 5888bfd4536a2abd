//! What each device should run, and the last thing it said about its software. The reconciler writes wishes; the LwM2M side reads
//! them, acknowledges what a device has taken, and records what it reports.

use protocol_types::{
    Digest, EndpointName, Phase, Reason, ReleaseVersion, RolloutId, SecurityVersion, Slot, TargetPath, UnixSeconds,
};
use sqlx::{Row, any::AnyRow};

use crate::{
    AccountScope, Change, StoreError, Wish,
    error::cannot,
    filter::version_key,
    numbers::{from_sql, time, to_sql},
    rows::{self, parsed},
    transaction::Transaction,
};

/// The release that a device should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRelease {
    /// Its target path.
    pub path: TargetPath,
    /// Digest of the release document.
    pub digest: Digest,
    /// The rollout that asks for it.
    pub rollout: RolloutId,
    /// Its try on this device, from 1.
    pub attempt: u32,
}

/// The wish for a device, which may be that nothing is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRow {
    /// Counts every change of the wish, from 1.
    pub generation: u64,
    /// The last generation that the device has taken; 0 if none.
    pub acknowledged: u64,
    /// The release; `None` if nothing is wanted.
    pub release: Option<DesiredRelease>,
    /// When the wish changed.
    pub changed: UnixSeconds,
}

impl DesiredRow {
    /// The wish as rollouts see it; `None` if nothing is wanted.
    pub(crate) fn wish(&self) -> Option<Wish> {
        let release = self.release.as_ref()?;
        Some(Wish { rollout: release.rollout.clone(), attempt: release.attempt, taken: self.is_acknowledged() })
    }

    /// Whether the device has taken the wish as it stands.
    pub const fn is_acknowledged(&self) -> bool {
        self.acknowledged >= self.generation
    }
}

/// What a device says about its software.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// What its updater is doing.
    pub phase: Phase,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
    /// Per cent, while downloading.
    pub progress: Option<u8>,
    /// The rollout that the phase belongs to.
    pub rollout: Option<RolloutId>,
    /// The try of that rollout that the phase belongs to, from 1.
    pub attempt: u32,
    /// Digest of the release document that the phase belongs to.
    pub digest: Option<Digest>,
    /// The version that runs.
    pub running_version: Option<ReleaseVersion>,
    /// Digest of the running release document; `None` for the image of the factory.
    pub running_digest: Option<Digest>,
    /// The slot that was booted.
    pub slot: Option<Slot>,
    /// Releases below this security version are refused.
    pub floor: SecurityVersion,
}

impl DeviceReport {
    /// What a device says that does nothing for a rollout, and not what it runs.
    pub const fn idle() -> Self {
        Self {
            phase: Phase::Idle,
            reason: None,
            progress: None,
            rollout: None,
            attempt: 1,
            digest: None,
            running_version: None,
            running_digest: None,
            slot: None,
            floor: SecurityVersion(0),
        }
    }
}

/// Reads the columns `wish_…` of a joined row.
pub(crate) fn read_wish(row: &AnyRow) -> Result<Option<DesiredRow>, StoreError> {
    let doing = "read a wish";
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let Some(generation) = number("wish_generation")? else { return Ok(None) };
    let release = match rows::text(row, "wish_path")? {
        None => None,
        Some(path) => {
            let column = |column| StoreError::Damaged { table: "desired_releases", column };
            Some(DesiredRelease {
                path: path.parse().map_err(|_| column("path"))?,
                digest: parsed(row, "wish_digest")?.ok_or_else(|| column("digest"))?,
                rollout: parsed(row, "wish_rollout")?.ok_or_else(|| column("rollout"))?,
                attempt: attempt(number("wish_attempt")?),
            })
        }
    };
    Ok(Some(DesiredRow {
        generation: from_sql(generation),
        acknowledged: from_sql(number("wish_acknowledged")?.unwrap_or_default()),
        release,
        changed: time(number("wish_changed")?.unwrap_or_default()),
    }))
}

/// Reads the columns `said_…` of a joined row.
pub(crate) fn read_report(row: &AnyRow) -> Result<Option<DeviceReport>, StoreError> {
    let doing = "read a report";
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let damaged = |column| StoreError::Damaged { table: "device_reports", column };
    let Some(phase) = rows::text(row, "said_phase")? else { return Ok(None) };
    Ok(Some(DeviceReport {
        phase: Phase::parse(&phase).ok_or_else(|| damaged("phase"))?,
        reason: read_reason(row, "said_reason_code", "said_reason_text")?,
        progress: number("said_progress")?.and_then(|n| u8::try_from(n).ok()),
        rollout: parsed(row, "said_rollout")?,
        attempt: attempt(number("said_attempt")?),
        digest: parsed(row, "said_digest")?,
        running_version: parsed(row, "said_running_version")?,
        running_digest: parsed(row, "said_running_digest")?,
        slot: match rows::text(row, "said_slot")?.as_deref() {
            Some("a") => Some(Slot::A),
            Some("b") => Some(Slot::B),
            Some(_) => return Err(damaged("slot")),
            None => None,
        },
        floor: SecurityVersion(
            number("said_floor")?.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| damaged("floor"))?,
        ),
    }))
}

fn attempt(number: Option<i64>) -> u32 {
    number.and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

/// A reason in two columns.
pub(crate) fn read_reason(
    row: &AnyRow,
    code: &'static str,
    sentence: &'static str,
) -> Result<Option<Reason>, StoreError> {
    let Some(code) = parsed(row, code)? else { return Ok(None) };
    Ok(Some(Reason { code, text: rows::text(row, sentence)?.unwrap_or_default() }))
}

impl AccountScope {
    /// What the device should run; `None` if nothing was ever asked of it.
    pub async fn desired_release(&self, endpoint: &EndpointName) -> Result<Option<DesiredRow>, StoreError> {
        let row = sqlx::query(
            "SELECT generation AS wish_generation, acknowledged AS wish_acknowledged, path AS wish_path,
                    digest AS wish_digest, rollout AS wish_rollout, attempt AS wish_attempt, changed AS wish_changed
             FROM desired_releases WHERE account = $1 AND endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot("read a wish"))?;
        row.as_ref().map_or(Ok(None), read_wish)
    }

    /// Notes that the device has taken the wish of this generation; an older one changes nothing.
    pub async fn acknowledge_desired(&self, endpoint: &EndpointName, generation: u64) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE desired_releases SET acknowledged = $3
             WHERE account = $1 AND endpoint = $2 AND acknowledged < $3 AND generation >= $3",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(generation))
        .execute(tx.sql())
        .await
        .map_err(cannot("acknowledge a wish"))?;
        if done.rows_affected() > 0 {
            tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
        }
        tx.commit().await
    }

    /// The last thing that the device said about its software, and when.
    pub async fn device_report(
        &self,
        endpoint: &EndpointName,
    ) -> Result<Option<(DeviceReport, UnixSeconds)>, StoreError> {
        let doing = "read a report";
        let row = sqlx::query(
            "SELECT phase AS said_phase, reason_code AS said_reason_code, reason_text AS said_reason_text,
                    progress AS said_progress, rollout AS said_rollout, attempt AS said_attempt, digest AS said_digest,
                    running_version AS said_running_version, running_digest AS said_running_digest,
                    slot AS said_slot, floor AS said_floor, received
             FROM device_reports WHERE account = $1 AND endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_optional(self.readers())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(None) };
        let received = time(row.try_get("received").map_err(cannot(doing))?);
        Ok(read_report(&row)?.map(|report| (report, received)))
    }

    /// Replaces what the device last said about its software. Rollouts follow from it.
    pub async fn record_report(
        &self,
        endpoint: &EndpointName,
        report: &DeviceReport,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        self.record_report_on(&mut tx, endpoint, report, now).await?;
        tx.commit().await
    }

    pub(crate) async fn record_report_on(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        report: &DeviceReport,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let reason = report.reason.as_ref();
        sqlx::query(
            "INSERT INTO device_reports (account, endpoint, phase, reason_code, reason_text, progress, rollout, digest,
                                         running_version, running_digest, slot, floor, received,
                                         running_version_key, attempt)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
             ON CONFLICT (account, endpoint) DO UPDATE SET phase = excluded.phase, reason_code = excluded.reason_code,
                 reason_text = excluded.reason_text, progress = excluded.progress, rollout = excluded.rollout,
                 digest = excluded.digest, running_version = excluded.running_version,
                 running_digest = excluded.running_digest, slot = excluded.slot, floor = excluded.floor,
                 received = excluded.received, running_version_key = excluded.running_version_key,
                 attempt = excluded.attempt",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(report.phase.as_str())
        .bind(reason.map(|r| r.code.as_str()))
        .bind(reason.map(|r| r.text.as_str()))
        .bind(report.progress.map(i64::from))
        .bind(report.rollout.as_ref().map(RolloutId::as_str))
        .bind(report.digest.map(|d| d.to_string()))
        .bind(report.running_version.as_ref().map(ToString::to_string))
        .bind(report.running_digest.map(|d| d.to_string()))
        .bind(report.slot.map(|slot| slot.letter().to_string()))
        .bind(i64::from(report.floor.0))
        .bind(to_sql(now.0))
        .bind(report.running_version.as_ref().and_then(|version| version_key(&version.to_string())))
        .bind(i64::from(report.attempt))
        .execute(tx.sql())
        .await
        .map_err(cannot("record a report"))?;
        tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
        Ok(())
    }
}

/// Changes the wish for a device, inside the transaction that has a reason to. `None` withdraws the wish, but only one of `rollout`.
pub(crate) async fn wish(
    tx: &mut Transaction,
    scope: &AccountScope,
    (endpoint, rollout): (&EndpointName, &RolloutId),
    release: Option<&DesiredRelease>,
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let doing = "change a wish";
    let done = match release {
        Some(release) => {
            sqlx::query(
                "INSERT INTO desired_releases (account, endpoint, generation, path, digest, rollout, attempt, changed)
                 VALUES ($1, $2, 1, $3, $4, $5, $7, $6)
                 ON CONFLICT (account, endpoint) DO UPDATE SET generation = desired_releases.generation + 1,
                     path = excluded.path, digest = excluded.digest, rollout = excluded.rollout,
                     attempt = excluded.attempt, changed = excluded.changed",
            )
            .bind(scope.id())
            .bind(endpoint.as_str())
            .bind(release.path.as_str())
            .bind(release.digest.to_string())
            .bind(release.rollout.as_str())
            .bind(to_sql(now.0))
            .bind(i64::from(release.attempt))
            .execute(tx.sql())
            .await
        }
        None => {
            sqlx::query(
                "UPDATE desired_releases SET generation = generation + 1, path = NULL, digest = NULL, rollout = NULL, changed = $4
                 WHERE account = $1 AND endpoint = $2 AND rollout = $3",
            )
            .bind(scope.id())
            .bind(endpoint.as_str())
            .bind(rollout.as_str())
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
        }
    }
    .map_err(cannot(doing))?;
    if done.rows_affected() > 0 {
        tx.changed(Change::Desired(scope.account.clone(), endpoint.clone()));
    }
    Ok(())
}
