//! The transactions that carry a decision about a rollout out. The decision itself comes as a function, so that it can be made on what is
//! known at the moment. No transaction moves a device of which something else is known by then.

use std::collections::HashMap;

use protocol_types::{DeviceState, EndpointName, Reason, RolloutId, RolloutState, UnixSeconds, WaitingFor};
use serde_json::json;

use crate::{
    AccountScope, DesiredRelease, DeviceFacts, EventDraft, RolloutFacts, RolloutRow, StoreError, Subject,
    error::cannot, events, numbers::to_sql, rollouts::updates, transaction::Transaction,
};

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

    /// Whether the rollout itself moves on, and not its devices alone.
    const fn moves_rollout(&self) -> bool {
        self.rollout.is_some() || self.wave.is_some() || self.closes || self.brings_back
    }

    /// Takes the decision about the first `devices` of those that move on out of it. What would keep the others from moving on comes with
    /// the last of them.
    fn take_first(&mut self, devices: usize) -> Self {
        let others = self.devices.split_off(devices.min(self.devices.len()));
        let mut first = std::mem::take(self);
        if !others.is_empty() {
            self.closes = std::mem::take(&mut first.closes);
            self.rollout = first.rollout.take_if(|(state, _)| *state == RolloutState::Finished);
        }
        self.devices = others;
        first
    }
}

/// Devices that move on in one transaction, at least. A start of a large rollout moves all of them; others write in between.
const AT_A_TIME: usize = 1_000;
/// In about so many transactions all devices of a rollout move on; one look makes a few more at most.
const TIMES: usize = 20;
/// In how many of them what was read before is good enough: devices that fail meanwhile count from the next reading on.
const GOOD_FOR: usize = 5;

/// What is known of devices, by their names.
type Known<'a> = HashMap<&'a EndpointName, &'a DeviceFacts>;

pub(super) fn by_name(devices: &[DeviceFacts]) -> Known<'_> {
    devices.iter().map(|device| (&device.endpoint, device)).collect()
}

impl AccountScope {
    /// Lets `decide` look at everything known about a rollout and carries its decision out, with the events that tell of it. Answers how
    /// many devices moved on.
    ///
    /// Everything known of a million devices takes seconds to read, so it is read before any transaction, and each transaction asks again
    /// about the few devices alone that it moves. A decision about the rollout itself, which may be its end, is made once more on
    /// everything by the transaction that carries it out. Whatever ends here half-way, the next look goes on.
    pub async fn reconcile_rollout(
        &self,
        id: &RolloutId,
        decide: impl Fn(&RolloutFacts) -> Decision,
        now: UnixSeconds,
    ) -> Result<usize, StoreError> {
        let (mut moved, mut transactions) = (0, 0);
        while transactions < TIMES {
            let facts = self.facts_of_rollout(id, now).await?;
            let mut left = decide(&facts);
            // Most looks find nothing to do and need no turn to write.
            if left.is_empty() {
                break;
            }
            let known = by_name(&facts.devices);
            let at_a_time = AT_A_TIME.max(facts.devices.len().div_ceil(TIMES));
            for _ in 0..GOOD_FOR {
                transactions += 1;
                let part = left.take_first(at_a_time);
                if part.moves_rollout() {
                    let (devices, others) = self.move_rollout(id, &decide, at_a_time, now).await?;
                    moved += devices;
                    if others.is_empty() {
                        return Ok(moved);
                    }
                    // What was read is about the rollout as it was.
                    break;
                }
                let Some(devices) = self.move_devices((&facts.rollout, &known), &part.devices, now).await? else {
                    return Ok(moved);
                };
                moved += devices;
                if left.is_empty() {
                    return Ok(moved);
                }
            }
        }
        Ok(moved)
    }

    /// Moves those devices on of which the same is known as when it was decided; the others wait for the next look. `None` if the rollout
    /// itself is another one than it was then.
    pub(super) async fn move_devices(
        &self,
        (rollout, known): (&RolloutRow, &Known<'_>),
        steps: &[DeviceStep],
        now: UnixSeconds,
    ) -> Result<Option<usize>, StoreError> {
        let names: Vec<EndpointName> = steps.iter().map(|step| step.endpoint.clone()).collect();
        let mut tx = self.write().await?;
        if self.rollout_on(tx.sql(), &rollout.id).await? != *rollout {
            return Ok(None);
        }
        let devices = self.facts_of_devices(tx.sql(), rollout, &names, now).await?;
        let known_now = by_name(&devices);
        let mut moved = 0;
        for step in steps {
            let both = known.get(&step.endpoint).zip(known_now.get(&step.endpoint));
            if both.is_some_and(|(was, is)| is.says_the_same_as(was)) {
                self.move_device(&mut tx, rollout, step, now).await?;
                moved += 1;
            }
        }
        tx.commit().await?;
        Ok(Some(moved))
    }

    /// Decides on everything and carries out what becomes of the rollout itself, and of the first devices of those that move on. Answers how
    /// many these are, and what is left of the decision.
    async fn move_rollout(
        &self,
        id: &RolloutId,
        decide: &impl Fn(&RolloutFacts) -> Decision,
        at_a_time: usize,
        now: UnixSeconds,
    ) -> Result<(usize, Decision), StoreError> {
        let mut tx = self.write().await?;
        let facts = self.rollout_facts(tx.sql(), id, now).await?;
        let mut left = decide(&facts);
        let part = left.take_first(at_a_time);
        self.carry_out_decision(&mut tx, &facts.rollout, &part, now).await?;
        tx.commit().await?;
        Ok((part.devices.len(), left))
    }

    async fn carry_out_decision(
        &self,
        tx: &mut Transaction,
        rollout: &RolloutRow,
        decision: &Decision,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let id = &rollout.id;
        for step in &decision.devices {
            self.move_device(tx, rollout, step, now).await?;
        }
        if let Some((state, reason)) = &decision.rollout {
            self.set_rollout_state(tx, id, (*state, reason.as_ref()), now).await?;
            let kind = format!("rollout.{state}");
            let draft =
                EventDraft { kind: &kind, subject: format!("rollouts/{id}"), data: json!({ "reason": reason }) };
            events::append(tx, self, now, draft).await?;
            if *state == RolloutState::Finished {
                self.bring_in_force(tx, rollout, now).await?;
            }
        }
        if decision.wave.is_some() || decision.closes {
            self.open_wave(tx, rollout, decision).await?;
        }
        if let Some(wave) = decision.wave {
            let data = json!({ "wave": wave + 1 });
            let draft = EventDraft { kind: "rollout.wave", subject: format!("rollouts/{id}"), data };
            events::append(tx, self, now, draft).await?;
        }
        if decision.brings_back {
            self.bring_back(tx, rollout, now).await?;
        }
        Ok(())
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
}
