//! How far rollouts are on devices. Never moves one on; `decision` does.

use protocol_types::{AccountName, DeviceState, EndpointName, Reason, RolloutId, UnixSeconds, WaitingFor};
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, ServiceWide, StoreError,
    error::cannot,
    numbers::time,
    rollouts::{facts::ENDS, updates::read_reason},
    rows::{formed, parsed},
};

/// How far a rollout is on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutDeviceRow {
    /// The device.
    pub endpoint: EndpointName,
    /// How far it is.
    pub state: DeviceState,
    /// What it waits for, if it waits.
    pub waiting_for: Option<WaitingFor>,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
    /// Per cent, while downloading.
    pub progress: Option<u8>,
    /// Since when.
    pub since: UnixSeconds,
    /// Its wave, from 0, once it has one.
    pub wave: Option<u32>,
    /// Tries that failed.
    pub failed: u32,
}

/// Devices of a rollout, as [`read_device`] reads them; more conditions may follow.
const DEVICES: &str =
    "SELECT r.endpoint, r.state, r.waiting_for, r.reason_code, r.reason_text, r.since, r.wave, r.failed, s.progress
     FROM rollout_devices r
     LEFT JOIN device_reports s ON s.account = r.account AND s.endpoint = r.endpoint AND s.rollout = r.rollout
     WHERE r.account = $1 AND r.rollout = $2";

impl ServiceWide {
    /// Rollouts on which something may still happen, those that decide first before the others.
    pub async fn rollouts_under_way(&self) -> Result<Vec<(AccountName, RolloutId)>, StoreError> {
        let doing = "look for rollouts under way";
        let sql = format!(
            "SELECT account, id FROM rollouts t WHERE state IN ('running', 'paused') OR (state IN ('stopped', 'aborted')
                 AND EXISTS (SELECT 1 FROM rollout_devices r WHERE r.account = t.account AND r.rollout = t.id
                             AND (r.state NOT IN {ENDS} OR (t.state = 'stopped' AND t.on_failure = 'return'
                                  AND r.state = 'succeeded' AND r.returned IS NULL))))
             ORDER BY account, priority DESC, start_order DESC"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(self.store.readers()).await.map_err(cannot(doing))?;
        rows.iter()
            .map(|row| Ok((formed(row, doing, ("rollouts", "account"))?, formed(row, doing, ("rollouts", "id"))?)))
            .collect()
    }
}

impl AccountScope {
    /// At most `limit` devices of a rollout whose name comes after `after`, if given only those in one state.
    pub async fn rollout_devices_after(
        &self,
        id: &RolloutId,
        state: Option<DeviceState>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<RolloutDeviceRow>, StoreError> {
        let doing = "list the devices of a rollout";
        self.rollout(id).await?;
        let rows = sqlx::query(AssertSqlSafe(format!(
            "{DEVICES} AND r.endpoint > $3 AND ($4 = '' OR r.state = $4) ORDER BY r.endpoint LIMIT $5"
        )))
        .bind(self.id())
        .bind(id.as_str())
        .bind(after)
        .bind(state.map_or("", DeviceState::as_str))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter().map(read_device).collect()
    }

    /// At most `limit` devices of a rollout that came to an end elsewhere than on its release, whose name comes after `after`.
    pub async fn rollout_left_behind(
        &self,
        id: &RolloutId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<RolloutDeviceRow>, StoreError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "{DEVICES} AND r.endpoint > $3 AND r.state IN ('failed', 'rolled_back', 'superseded', 'cancelled')
             ORDER BY r.endpoint LIMIT $4"
        )))
        .bind(self.id())
        .bind(id.as_str())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the devices of a rollout"))?;
        rows.iter().map(read_device).collect()
    }

    /// How far a rollout is on one device; `None` if the device is not on its list.
    pub async fn rollout_device(
        &self,
        id: &RolloutId,
        endpoint: &EndpointName,
    ) -> Result<Option<RolloutDeviceRow>, StoreError> {
        let row = sqlx::query(AssertSqlSafe(format!("{DEVICES} AND r.endpoint = $3")))
            .bind(self.id())
            .bind(id.as_str())
            .bind(endpoint.as_str())
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("look for a device of a rollout"))?;
        row.as_ref().map(read_device).transpose()
    }

    /// The rollouts that may want something of a device, those that decide first before the others: all that are under way, and
    /// the last one that is over and has the device on its list.
    pub async fn rollouts_for(&self, endpoint: &EndpointName) -> Result<Vec<RolloutId>, StoreError> {
        let doing = "look for the rollouts of a device";
        let rows = sqlx::query(
            "SELECT n.id AS id FROM rollouts n
             WHERE n.account = $1 AND (n.state IN ('running', 'paused') OR n.start_order = (
                 SELECT MAX(l.start_order) FROM rollouts l
                 JOIN rollout_devices r ON r.account = l.account AND r.rollout = l.id
                 WHERE l.account = $1 AND r.endpoint = $2))
             ORDER BY n.priority DESC, n.start_order DESC",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("rollouts", "id"))).collect()
    }
}

fn read_device(row: &AnyRow) -> Result<RolloutDeviceRow, StoreError> {
    let doing = "read a device of a rollout";
    let damaged = |column| StoreError::Damaged { table: "rollout_devices", column };
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let small = |column| number(column)?.map(u32::try_from).transpose().map_err(|_| damaged(column));
    let state = formed(row, doing, ("rollout_devices", "state"))?;
    let downloading = state == DeviceState::Downloading;
    Ok(RolloutDeviceRow {
        endpoint: formed(row, doing, ("rollout_devices", "endpoint"))?,
        state,
        progress: number("progress")?.filter(|_| downloading).and_then(|n| u8::try_from(n).ok()),
        waiting_for: parsed(row, "waiting_for")?,
        reason: read_reason(row, "reason_code", "reason_text")?,
        since: time(number("since")?.ok_or_else(|| damaged("since"))?),
        wave: small("wave")?,
        failed: small("failed")?.ok_or_else(|| damaged("failed"))?,
    })
}
