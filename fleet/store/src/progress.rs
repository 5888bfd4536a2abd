//! How far a rollout is on each device, and the one transaction that carries a decision out.
//! The decision itself comes as a function, so that it is made on exactly the rows that it changes.

use protocol_types::{
    AccountName, DeviceState, EndpointName, Reason, RolloutId, RolloutState, UnixSeconds, WaitingFor,
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Change, DesiredRelease, EventDraft, RolloutFacts, RolloutRow, ServiceWide, StoreError, Subject,
    error::cannot,
    events,
    numbers::{time, to_sql},
    rollout_facts::{ENDS, read_waiting},
    transaction::Transaction,
    updates::{self, parsed, read_reason},
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

/// What happens to the wish for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WishStep {
    /// It stays.
    Leave,
    /// What the rollout brings is wanted.
    Set,
    /// The rollout wants nothing any more; another rollout's wish stays.
    Clear,
}

/// What a step means for how often the device has failed in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Nothing.
    Leave,
    /// A try has failed.
    Failure,
    /// A try has succeeded: what was before is forgotten.
    Success,
}

/// One device moves on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStep {
    /// The device.
    pub endpoint: EndpointName,
    /// Its next state.
    pub to: DeviceState,
    /// What it then waits for.
    pub waiting_for: Option<WaitingFor>,
    /// Why.
    pub reason: Option<Reason>,
    /// What happens to its wish.
    pub wish: WishStep,
    /// Its wave, from 0.
    pub wave: u32,
    /// The try that counts now, from 1.
    pub attempt: u32,
    /// Tries that failed.
    pub failed: u32,
    /// It is not tried again before this.
    pub not_before: Option<UnixSeconds>,
    /// Whether a try has ended just now.
    pub tally: Tally,
}

/// What happens next: nothing, if both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Devices that move on.
    pub devices: Vec<DeviceStep>,
    /// The state that the rollout itself moves to.
    pub rollout: Option<(RolloutState, Option<Reason>)>,
    /// The last wave that is open from now on.
    pub wave: Option<u32>,
    /// Whether the audience admits no further devices from now on.
    pub closes: bool,
    /// Whether devices are brought back to what they ran before.
    pub brings_back: bool,
}

impl Decision {
    /// Whether nothing happens.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

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
            .map(|row| {
                let damaged = |column| StoreError::Damaged { table: "rollouts", column };
                let account = parsed(row, "account")?.ok_or_else(|| damaged("account"))?;
                Ok((account, parsed(row, "id")?.ok_or_else(|| damaged("id"))?))
            })
            .collect()
    }
}

impl AccountScope {
    /// Lets `decide` look at everything known about a rollout and carries its decision out, all in one transaction with the
    /// events that tell of it. Answers how many devices moved on.
    pub async fn reconcile_rollout(
        &self,
        id: &RolloutId,
        decide: impl Fn(&RolloutFacts) -> Decision,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        // Most looks find nothing to do and need no turn to write.
        let mut reader = self.readers().acquire().await.map_err(cannot("look at a rollout"))?;
        if decide(&self.rollout_facts(&mut reader, id, now).await?).is_empty() {
            return Ok(0);
        }
        drop(reader);
        let mut tx = self.write().await?;
        let facts = self.rollout_facts(tx.sql(), id, now).await?;
        let decision = decide(&facts);
        for step in &decision.devices {
            self.move_device(&mut tx, &facts.rollout, step, now).await?;
        }
        if let Some((state, reason)) = &decision.rollout {
            self.set_rollout_state(&mut tx, id, (*state, reason.as_ref()), now).await?;
            let kind = format!("rollout.{state}");
            let draft =
                EventDraft { kind: &kind, subject: format!("rollouts/{id}"), data: json!({ "reason": reason }) };
            events::append(&mut tx, self, now, draft).await?;
            if *state == RolloutState::Finished {
                self.bring_in_force(&mut tx, &facts.rollout, now).await?;
            }
        }
        if decision.wave.is_some() || decision.closes {
            self.open_wave(&mut tx, &facts.rollout, &decision).await?;
        }
        if let Some(wave) = decision.wave {
            let data = json!({ "wave": wave + 1 });
            let draft = EventDraft { kind: "rollout.wave", subject: format!("rollouts/{id}"), data };
            events::append(&mut tx, self, now, draft).await?;
        }
        if decision.brings_back {
            self.bring_back(&mut tx, &facts.rollout, now).await?;
        }
        tx.commit().await?;
        Ok(decision.devices.len())
    }

    async fn open_wave(
        &self,
        tx: &mut Transaction,
        rollout: &RolloutRow,
        decision: &Decision,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rollouts SET wave = $3, closed = $4, revision = revision + 1 WHERE account = $1 AND id = $2",
        )
        .bind(self.id())
        .bind(rollout.id.as_str())
        .bind(i64::from(decision.wave.unwrap_or(rollout.wave)))
        .bind(i64::from(rollout.closed || decision.closes))
        .execute(tx.sql())
        .await
        .map_err(cannot("open a wave of a rollout"))?;
        Ok(())
    }

    async fn move_device(
        &self,
        tx: &mut Transaction,
        rollout: &RolloutRow,
        step: &DeviceStep,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let id = &rollout.id;
        sqlx::query(
            "INSERT INTO rollout_devices (account, rollout, endpoint, state, waiting_for, reason_code, reason_text, since,
                                          wave, attempt, failed, not_before)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (account, rollout, endpoint) DO UPDATE SET state = excluded.state,
                 waiting_for = excluded.waiting_for, reason_code = excluded.reason_code,
                 reason_text = excluded.reason_text, since = excluded.since, wave = excluded.wave,
                 attempt = excluded.attempt, failed = excluded.failed, not_before = excluded.not_before",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(step.endpoint.as_str())
        .bind(step.to.as_str())
        .bind(step.waiting_for.map(WaitingFor::as_str))
        .bind(step.reason.as_ref().map(|r| r.code.as_str()))
        .bind(step.reason.as_ref().map(|r| r.text.as_str()))
        .bind(to_sql(now.0))
        .bind(i64::from(step.wave))
        .bind(i64::from(step.attempt))
        .bind(i64::from(step.failed))
        .bind(step.not_before.map(|moment| to_sql(moment.0)))
        .execute(tx.sql())
        .await
        .map_err(cannot("move a device of a rollout"))?;
        self.tally(tx, step).await?;
        let place = (&step.endpoint, id);
        if step.wish == WishStep::Set {
            self.note_offer(tx, place, now).await?;
        }
        match (step.wish, &rollout.wanted.subject) {
            (WishStep::Leave, _) => {}
            (WishStep::Set, Subject::Release(_)) => {
                let path = rollout.path.clone().ok_or(StoreError::Damaged { table: "rollouts", column: "path" })?;
                let (digest, attempt) = (rollout.digest, step.attempt);
                let release = DesiredRelease { path, digest, rollout: id.clone(), attempt };
                updates::wish(tx, self, place, Some(&release), now).await?;
            }
            (WishStep::Clear, Subject::Release(_)) => updates::wish(tx, self, place, None, now).await?,
            (WishStep::Set, Subject::Configuration { .. }) => {
                self.release_configuration(tx, place, Some(step.attempt)).await?;
            }
            (WishStep::Clear, Subject::Configuration { .. }) => self.release_configuration(tx, place, None).await?,
        }
        let mut data = rollout.wanted.subject.told();
        data.extend([
            ("rollout".to_owned(), json!(id)),
            ("endpoint".to_owned(), json!(step.endpoint)),
            ("state".to_owned(), json!(step.to)),
            ("waiting_for".to_owned(), json!(step.waiting_for)),
            ("reason".to_owned(), json!(step.reason)),
        ]);
        let subject = format!("rollouts/{id}/devices/{}", step.endpoint);
        events::append(tx, self, now, EventDraft { kind: "rollout.device", subject, data: data.into() }).await
    }

    /// Remembers when the device was offered what the rollout brings, and what it ran when it was first.
    async fn note_offer(
        &self,
        tx: &mut Transaction,
        (endpoint, rollout): (&EndpointName, &RolloutId),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rollout_devices SET offered = $4, previous = COALESCE(previous,
                 (SELECT s.running_digest FROM device_reports s WHERE s.account = $1 AND s.endpoint = $3))
             WHERE account = $1 AND rollout = $2 AND endpoint = $3",
        )
        .bind(self.id())
        .bind(rollout.as_str())
        .bind(endpoint.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("offer a release"))?;
        Ok(())
    }

    async fn tally(&self, tx: &mut Transaction, step: &DeviceStep) -> Result<(), StoreError> {
        let sql = match step.tally {
            Tally::Leave => return Ok(()),
            Tally::Failure => {
                "UPDATE devices SET update_failures = update_failures + 1 WHERE account = $1 AND endpoint = $2"
            }
            Tally::Success => "UPDATE devices SET update_failures = 0 WHERE account = $1 AND endpoint = $2",
        };
        sqlx::query(sql)
            .bind(self.id())
            .bind(step.endpoint.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot("count the failures of a device"))?;
        Ok(())
    }

    /// A device that was deleted and joins again is a new one: rollouts that go on and had it on their list begin again with it.
    pub(crate) async fn join_rollouts_anew(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rollout_devices SET state = 'queued', waiting_for = NULL, reason_code = NULL, reason_text = NULL, since = $3,
                 attempt = attempt + 1, failed = 0, not_before = NULL, previous = NULL, released = NULL, generation = NULL,
                 refused = NULL
             WHERE account = $1 AND endpoint = $2 AND rollout IN
                 (SELECT id FROM rollouts WHERE account = $1 AND state IN ('running', 'paused'))",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot("let a device join rollouts"))?;
        Ok(())
    }

    /// Lets a device that is held back because it kept failing take part in rollouts again.
    pub async fn forgive_failures(&self, endpoint: &EndpointName, now: UnixSeconds) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("UPDATE devices SET update_failures = 0 WHERE account = $1 AND endpoint = $2")
            .bind(self.id())
            .bind(endpoint.as_str())
            .execute(tx.sql())
            .await
            .map_err(cannot("forgive the failures of a device"))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "device", id: endpoint.to_string() });
        }
        let draft = EventDraft { kind: "device.forgiven", subject: format!("devices/{endpoint}"), data: json!({}) };
        events::append(&mut tx, self, now, draft).await?;
        tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
        tx.commit().await
    }

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
        let rows = sqlx::query(
            "SELECT r.endpoint, r.state, r.waiting_for, r.reason_code, r.reason_text, r.since, r.wave,
                    r.failed, s.progress
             FROM rollout_devices r
             LEFT JOIN device_reports s ON s.account = r.account AND s.endpoint = r.endpoint AND s.rollout = r.rollout
             WHERE r.account = $1 AND r.rollout = $2 AND r.endpoint > $3 AND ($4 = '' OR r.state = $4)
             ORDER BY r.endpoint LIMIT $5",
        )
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
        let rows = sqlx::query(
            "SELECT r.endpoint, r.state, r.waiting_for, r.reason_code, r.reason_text, r.since, r.wave, r.failed,
                    CAST(NULL AS BIGINT) AS progress
             FROM rollout_devices r WHERE r.account = $1 AND r.rollout = $2 AND r.endpoint > $3
                 AND r.state IN ('failed', 'rolled_back', 'superseded', 'cancelled')
             ORDER BY r.endpoint LIMIT $4",
        )
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
        let row = sqlx::query(
            "SELECT r.endpoint, r.state, r.waiting_for, r.reason_code, r.reason_text, r.since, r.wave, r.failed, s.progress
             FROM rollout_devices r
             LEFT JOIN device_reports s ON s.account = r.account AND s.endpoint = r.endpoint AND s.rollout = r.rollout
             WHERE r.account = $1 AND r.rollout = $2 AND r.endpoint = $3",
        )
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
        .map_err(cannot("look for the rollouts of a device"))?;
        let damaged = || StoreError::Damaged { table: "rollouts", column: "id" };
        rows.iter().map(|row| parsed(row, "id")?.ok_or_else(damaged)).collect()
    }
}

fn read_device(row: &AnyRow) -> Result<RolloutDeviceRow, StoreError> {
    let damaged = |column| StoreError::Damaged { table: "rollout_devices", column };
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot("read a device of a rollout"));
    let small = |column| number(column)?.map(u32::try_from).transpose().map_err(|_| damaged(column));
    let state = updates::text(row, "state")?.and_then(|state| DeviceState::parse(&state));
    let state = state.ok_or_else(|| damaged("state"))?;
    let downloading = state == DeviceState::Downloading;
    Ok(RolloutDeviceRow {
        endpoint: parsed(row, "endpoint")?.ok_or_else(|| damaged("endpoint"))?,
        state,
        progress: number("progress")?.filter(|_| downloading).and_then(|n| u8::try_from(n).ok()),
        waiting_for: read_waiting(row)?,
        reason: read_reason(row, "reason_code", "reason_text")?,
        since: time(number("since")?.ok_or_else(|| damaged("since"))?),
        wave: small("wave")?,
        failed: small("failed")?.ok_or_else(|| damaged("failed"))?,
    })
}
