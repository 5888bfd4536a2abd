//! What keeps a device from being offered a release: one rule after the other, and the first that holds it names itself. The plan
//! asks this for each device, and so do the answers to "why not" and the dry run.

use fleet_store::{DeviceFacts, RolloutRow};
use protocol_types::{Consent, Phase, Standing, UnixSeconds, WaitingFor};

use super::{place::Place, window};

/// A rule that holds a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) waiting_for: WaitingFor,
    /// When it lets go by itself, where time alone makes it.
    pub(crate) next: Option<UnixSeconds>,
}

/// The first rule that holds the device, apart from pace and quota, which depend on the others.
pub(crate) fn hold(rollout: &RolloutRow, place: &Place<'_>, now: UnixSeconds) -> Option<Hold> {
    let (policy, device) = (&rollout.wanted.policy, place.facts);
    let on = |waiting_for| Some(Hold { waiting_for, next: None });
    let until = |waiting_for, next| Some(Hold { waiting_for, next: Some(next) });
    if let Some(waiting_for) = needs_a_person(rollout, place) {
        return on(waiting_for);
    }
    if rollout.wanted.consent == Consent::Operator && !device.consented {
        return on(WaitingFor::Consent);
    }
    if policy.approval && rollout.approved_by.is_none() {
        return on(WaitingFor::Approval);
    }
    if let Some(moment) = policy.not_before.filter(|moment| *moment > now) {
        return until(WaitingFor::Schedule, moment);
    }
    if let Some(moment) = place.not_before.filter(|moment| *moment > now) {
        return until(if was_refused(rollout, place) { WaitingFor::Consent } else { WaitingFor::Retry }, moment);
    }
    if place.wave.unwrap_or_default() > rollout.wave {
        return on(WaitingFor::Wave);
    }
    if let Some(next) =
        rollout.wanted.window.as_ref().and_then(|hours| window::opens(hours, device.zone.as_deref(), now))
    {
        return until(WaitingFor::Window, next);
    }
    if !place.is_reachable() {
        return on(WaitingFor::Asleep);
    }
    None
}

/// Whether the device waits because somebody at it said no, and not because a try failed.
pub(crate) fn was_refused(rollout: &RolloutRow, place: &Place<'_>) -> bool {
    rollout.wanted.consent == Consent::Device
        && place.not_before.is_some()
        && (place.waiting_for == Some(WaitingFor::Consent) || place.failed == 0)
}

/// What about the device itself nobody but a person can end.
pub(crate) fn needs_a_person(rollout: &RolloutRow, place: &Place<'_>) -> Option<WaitingFor> {
    let limit = rollout.wanted.policy.hold_after;
    if place.facts.present.is_some_and(|(_, standing)| standing != Standing::Active) {
        return Some(WaitingFor::Quarantined);
    }
    (limit > 0 && place.failures() >= limit).then_some(WaitingFor::Failures)
}

/// Whether the device has nothing to do: it runs the release and is not in the middle of something.
pub(crate) fn runs_already(rollout: &RolloutRow, device: &DeviceFacts) -> bool {
    device.said.as_ref().is_some_and(|said| {
        let settled = matches!(said.phase, Phase::Idle | Phase::Succeeded | Phase::Failed | Phase::RolledBack);
        settled && said.running_digest == Some(rollout.digest)
    })
}

/// Seconds until the next try of a device that has failed so often in this rollout: twice as long each time, at most a day, and up to
/// a tenth more by `lot`, so that devices that failed together do not come back together.
pub(crate) fn pause(rollout: &RolloutRow, failed: u32, lot: u64) -> u64 {
    const DAY: u64 = 24 * 60 * 60;
    let first = u64::from(rollout.wanted.policy.retries.first_delay_s);
    let doubled = 1_u64.checked_shl(failed.saturating_sub(1)).unwrap_or(u64::MAX);
    let pause = first.saturating_mul(doubled).min(DAY);
    pause + lot % (pause / 10 + 1)
}
