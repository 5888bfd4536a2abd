//! What a person asks of a rollout that was made, and of a device that rollouts hold back. Never decides what happens on a device.

use protocol_types::{EndpointName, Reason, RolloutAction, RolloutId, RolloutState, UnixSeconds};
use serde_json::json;

use crate::{
    AccountScope, Change, EventDraft, RolloutRow, StoreError, error::cannot, events, numbers::to_sql, rollouts::count,
    transaction::Transaction,
};

/// The state that an action leads to, where it may be asked for; asking for what is already so is allowed.
fn outcome(action: RolloutAction, from: RolloutState) -> Option<RolloutState> {
    match (action, from) {
        (RolloutAction::Start, RolloutState::Draft | RolloutState::Running) => Some(RolloutState::Running),
        (RolloutAction::Pause, RolloutState::Running | RolloutState::Paused) => Some(RolloutState::Paused),
        (RolloutAction::Resume, RolloutState::Paused | RolloutState::Running) => Some(RolloutState::Running),
        (
            RolloutAction::Abort,
            RolloutState::Draft | RolloutState::Running | RolloutState::Paused | RolloutState::Aborted,
        ) => Some(RolloutState::Aborted),
        (
            RolloutAction::Close | RolloutAction::Approve | RolloutAction::AskAgain,
            RolloutState::Running | RolloutState::Paused,
        ) => Some(from),
        (RolloutAction::Start, RolloutState::Paused)
        | (
            RolloutAction::Pause
            | RolloutAction::Resume
            | RolloutAction::Close
            | RolloutAction::Approve
            | RolloutAction::AskAgain,
            RolloutState::Draft,
        )
        | (_, RolloutState::Stopped | RolloutState::Finished)
        | (
            RolloutAction::Start
            | RolloutAction::Pause
            | RolloutAction::Resume
            | RolloutAction::Close
            | RolloutAction::Approve
            | RolloutAction::AskAgain,
            RolloutState::Aborted,
        ) => None,
    }
}

const fn event(action: RolloutAction) -> &'static str {
    match action {
        RolloutAction::Start => "rollout.started",
        RolloutAction::Pause => "rollout.paused",
        RolloutAction::Resume => "rollout.resumed",
        RolloutAction::Abort => "rollout.aborted",
        RolloutAction::Close => "rollout.closed",
        RolloutAction::Approve => "rollout.approved",
        RolloutAction::AskAgain => "rollout.asked_again",
    }
}

/// Whether it is already so.
fn is_done(action: RolloutAction, row: &RolloutRow, next: RolloutState) -> bool {
    match action {
        RolloutAction::Close => row.closed,
        RolloutAction::Approve => row.approved_by.is_some(),
        // Somebody may have said no since.
        RolloutAction::AskAgain => false,
        RolloutAction::Start | RolloutAction::Pause | RolloutAction::Resume | RolloutAction::Abort => next == row.state,
    }
}

const DOING: &str = "change a rollout";

impl AccountScope {
    /// Does what `by` asks of a rollout, if it is at revision `at`; asking for what is already so changes nothing.
    pub async fn act_on_rollout(
        &self,
        id: &RolloutId,
        action: RolloutAction,
        (at, by): (Option<i64>, &str),
        now: UnixSeconds,
    ) -> Result<RolloutRow, StoreError> {
        let mut tx = self.write().await?;
        let row = self.rollout_on(tx.sql(), id).await?;
        if at.is_some_and(|at| at != row.revision) {
            return Err(StoreError::Stale { kind: "rollout", id: id.to_string(), now: row.revision });
        }
        let wrong = |state: String| StoreError::WrongState { kind: "rollout", id: id.to_string(), state };
        let Some(next) = outcome(action, row.state) else { return Err(wrong(row.state.to_string())) };
        if action == RolloutAction::Approve && !row.wanted.policy.approval {
            return Err(wrong("a rollout that asks for nobody's approval".to_owned()));
        }
        if action == RolloutAction::AskAgain && row.wanted.asked_at_device().is_none() {
            return Err(wrong("a rollout that asks nobody at the device".to_owned()));
        }
        if is_done(action, &row, next) {
            return Ok(row);
        }
        if action == RolloutAction::Approve && row.started_by.as_deref() == Some(by) {
            return Err(StoreError::SecondPerson { id: id.to_string() });
        }
        if matches!(action, RolloutAction::Start | RolloutAction::Resume) {
            self.must_still_be_brought(&mut tx, &row.wanted.subject).await?;
        }
        self.set_rollout_state(&mut tx, id, (next, row.reason.as_ref().filter(|_| next == row.state)), now).await?;
        self.note_action(&mut tx, (&row, action), by, now).await?;
        let draft = EventDraft { kind: event(action), subject: format!("rollouts/{id}"), data: json!({ "by": by }) };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.rollout(id).await
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

    /// What an action changes beside the state.
    async fn note_action(
        &self,
        tx: &mut Transaction,
        (row, action): (&RolloutRow, RolloutAction),
        by: &str,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let one = |sql: &'static str| sqlx::query(sql).bind(self.id()).bind(row.id.as_str());
        match action {
            RolloutAction::Start if row.start_order.is_none() => {
                let order = count(tx, self, "rollout_starts").await?;
                one("UPDATE rollouts SET start_order = $3, started = $4, started_by = $5 WHERE account = $1 AND id = $2")
                    .bind(order)
                    .bind(to_sql(now.0))
                    .bind(by)
                    .execute(tx.sql())
                    .await
            }
            RolloutAction::Resume => {
                one("UPDATE rollouts SET excused = (SELECT COUNT(*) FROM rollout_devices d WHERE d.account = $1
                         AND d.rollout = $2 AND d.state IN ('failed', 'rolled_back')) WHERE account = $1 AND id = $2")
                .execute(tx.sql())
                .await
            }
            RolloutAction::Close => {
                one("UPDATE rollouts SET closed = 1 WHERE account = $1 AND id = $2").execute(tx.sql()).await
            }
            RolloutAction::Approve => {
                one("UPDATE rollouts SET approved_by = $3 WHERE account = $1 AND id = $2")
                    .bind(by)
                    .execute(tx.sql())
                    .await
            }
            RolloutAction::AskAgain => {
                one("UPDATE rollout_devices SET not_before = NULL WHERE account = $1 AND rollout = $2
                         AND state = 'waiting' AND waiting_for = 'consent'")
                .execute(tx.sql())
                .await
            }
            RolloutAction::Start | RolloutAction::Pause | RolloutAction::Abort => return Ok(()),
        }
        .map_err(cannot(DOING))?;
        Ok(())
    }

    pub(crate) async fn set_rollout_state(
        &self,
        tx: &mut Transaction,
        id: &RolloutId,
        (state, reason): (RolloutState, Option<&Reason>),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rollouts SET state = $3, reason_code = $4, reason_text = $5, changed = $6, revision = revision + 1
             WHERE account = $1 AND id = $2",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(state.as_str())
        .bind(reason.map(|r| r.code.as_str()))
        .bind(reason.map(|r| r.text.as_str()))
        .bind(to_sql(now.0))
        .execute(tx.sql())
        .await
        .map_err(cannot(DOING))?;
        tx.changed(Change::Rollouts(self.account.clone()));
        Ok(())
    }
}
