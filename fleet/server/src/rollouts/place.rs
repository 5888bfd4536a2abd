//! A device in the middle of a decision: what is known of it, and where the decision puts it. Never decides by itself.

use fleet_store::{DeviceFacts, DeviceStep, RolloutRow, Tally, WishStep};
use protocol_types::{DeviceState, Reason, Standing, UnixSeconds, WaitingFor};

use super::{hold::Hold, report};

/// A device and where this decision puts it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) facts: &'a DeviceFacts,
    pub(crate) state: DeviceState,
    pub(crate) waiting_for: Option<WaitingFor>,
    pub(crate) reason: Option<Reason>,
    pub(crate) wave: Option<u32>,
    pub(crate) attempt: u32,
    pub(crate) failed: u32,
    pub(crate) not_before: Option<UnixSeconds>,
    /// The rule that holds it, if one does.
    pub(crate) held: Option<Hold>,
    pub(crate) tally: Tally,
    pub(crate) wish: WishStep,
    moved: bool,
}

impl<'a> Place<'a> {
    pub(crate) fn new(facts: &'a DeviceFacts) -> Self {
        let (state, waiting_for) = facts.at.unwrap_or((DeviceState::Queued, None));
        Self {
            facts,
            state,
            waiting_for,
            reason: None,
            wave: facts.wave,
            attempt: facts.attempt,
            failed: facts.failed,
            not_before: facts.not_before,
            held: None,
            tally: Tally::Leave,
            wish: WishStep::Leave,
            // A device that has just come into the audience is put on the list, whatever else happens.
            moved: facts.at.is_none(),
        }
    }

    pub(crate) fn go(&mut self, state: DeviceState, reason: Option<Reason>, wish: WishStep) {
        self.put((state, None), reason, wish);
    }

    pub(crate) fn put(&mut self, to: (DeviceState, Option<WaitingFor>), reason: Option<Reason>, wish: WishStep) {
        if (self.state, self.waiting_for) == to && wish == WishStep::Leave {
            return;
        }
        (self.state, self.waiting_for) = to;
        (self.reason, self.wish, self.moved) = (reason, wish, true);
    }

    /// Gives the device its wave.
    pub(crate) const fn join(&mut self, wave: u32) {
        (self.wave, self.moved) = (Some(wave), true);
    }

    /// Begins a new try: what the device says of an earlier one no longer counts.
    pub(crate) const fn try_anew(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
        self.moved = true;
    }

    /// Whether the wish for the device is this try of `rollout`, and whether the device has taken it.
    pub(crate) fn wished(&self, rollout: &RolloutRow) -> Option<bool> {
        let wish = self.facts.wish.as_ref()?;
        (wish.rollout == rollout.id && wish.attempt == self.attempt).then_some(wish.taken)
    }

    /// Failed tries in a row, with the one that was just told.
    pub(crate) fn failures(&self) -> u32 {
        self.facts.failures.saturating_add(u32::from(self.tally == Tally::Failure))
    }

    /// Whether any try of `rollout` is what is wanted of the device.
    pub(crate) fn has_wish_of(&self, rollout: &RolloutRow) -> bool {
        self.facts.wish.as_ref().is_some_and(|wish| wish.rollout == rollout.id)
    }

    pub(crate) const fn is_before_its_turn(&self) -> bool {
        matches!(self.state, DeviceState::Queued | DeviceState::Waiting)
    }

    /// Whether it is registered and may take part.
    pub(crate) fn is_reachable(&self) -> bool {
        matches!(self.facts.present, Some((true, Standing::Active)))
    }

    /// Whether it was not heard for so long that nobody waits for it: all devices are gone for a moment when the service restarts.
    pub(crate) fn is_away(&self, now: UnixSeconds) -> bool {
        const PATIENCE: u64 = 24 * 60 * 60;
        let heard = self.facts.last_seen.is_some_and(|moment| moment.0.saturating_add(PATIENCE) > now.0);
        !self.state.is_under_way() && !self.is_reachable() && !heard
    }

    /// Whether the device has the wish and goes on by itself: after contact was lost on trial, or with a yes of somebody at it.
    pub(crate) fn is_retrying(&self, rollout: &RolloutRow) -> bool {
        let heard = report::heard(rollout, self.facts.said.as_ref(), self.attempt);
        matches!(heard, Some((DeviceState::Waiting, ..)))
    }

    /// Whether the device counts against the quota: it works on the wish, or will as soon as the wish has reached it.
    pub(crate) fn is_busy(&self, rollout: &RolloutRow) -> bool {
        let has_wish = self.is_before_its_turn() && self.wished(rollout).is_some() && !self.is_retrying(rollout);
        self.state.is_under_way() || (has_wish && self.is_reachable())
    }

    pub(crate) fn step(self) -> Option<DeviceStep> {
        let Self {
            facts, state: to, waiting_for, reason, wave, attempt, failed, not_before, tally, wish, moved, ..
        } = self;
        moved.then(|| DeviceStep {
            endpoint: facts.endpoint.clone(),
            to,
            waiting_for,
            reason,
            wish,
            wave: wave.unwrap_or_default(),
            attempt,
            failed,
            not_before,
            tally,
        })
    }
}
