//! Decides what a rollout does next from what is known: a function of facts and time, without memory. Never touches the store.
//!
//! In this order: what devices said decides first; then a newer rollout takes devices over; then the failure threshold may stop
//! the rollout; then, with consent and within window and quota, devices are offered the release; and when every device has come to an end, so has
//! the rollout. Deciding again on the outcome of a decision decides nothing new, so it does not matter how often, or after which
//! crash, somebody asks.

use fleet_store::{
    Consent, DailyWindow, Decision, DeviceFacts, DeviceReport, DeviceStep, RolloutFacts, RolloutRow, Standing,
    Threshold, WishStep,
};
use protocol_types::{DeviceState, Phase, Reason, ReasonCode, RolloutState, UnixSeconds, WaitingFor};

/// What happens next.
pub(crate) fn decide(facts: &RolloutFacts, now: UnixSeconds) -> Decision {
    let rollout = &facts.rollout;
    if matches!(rollout.state, RolloutState::Draft | RolloutState::Finished) {
        return Decision::default();
    }
    let mut places: Vec<Place<'_>> = facts.devices.iter().map(Place::new).collect();
    for place in &mut places {
        settle(rollout, place);
    }
    let mut outcome = None;
    let mut state = rollout.state;
    if !state.is_end()
        && let Some(reason) = over_threshold(facts, &places)
    {
        state = RolloutState::Stopped;
        outcome = Some((state, Some(reason)));
    }
    match state {
        RolloutState::Running => offer(rollout, &mut places, now),
        RolloutState::Paused => hold(rollout, &mut places),
        RolloutState::Stopped | RolloutState::Aborted => wind_down(state, &mut places),
        RolloutState::Draft | RolloutState::Finished => {}
    }
    if state == RolloutState::Running && places.iter().all(|place| place.state.is_end()) {
        outcome = Some((RolloutState::Finished, None));
    }
    Decision { devices: places.into_iter().filter_map(Place::step).collect(), rollout: outcome }
}

/// A device and where this decision puts it.
struct Place<'a> {
    facts: &'a DeviceFacts,
    state: DeviceState,
    waiting_for: Option<WaitingFor>,
    reason: Option<Reason>,
    wish: WishStep,
    moved: bool,
}

impl<'a> Place<'a> {
    fn new(facts: &'a DeviceFacts) -> Self {
        let (state, waiting_for) = facts.at.unwrap_or((DeviceState::Queued, None));
        // A device that has just come into the audience is put on the list, whatever else happens.
        Self { facts, state, waiting_for, reason: None, wish: WishStep::Leave, moved: facts.at.is_none() }
    }

    fn go(&mut self, state: DeviceState, reason: Option<Reason>, wish: WishStep) {
        self.put((state, None), reason, wish);
    }

    fn put(&mut self, to: (DeviceState, Option<WaitingFor>), reason: Option<Reason>, wish: WishStep) {
        if (self.state, self.waiting_for) == to && wish == WishStep::Leave {
            return;
        }
        (self.state, self.waiting_for) = to;
        (self.reason, self.wish, self.moved) = (reason, wish, true);
    }

    /// Whether the wish for the device is the one of `rollout`, and whether the device has taken it.
    fn wished(&self, rollout: &RolloutRow) -> Option<bool> {
        let wish = self.facts.wish.as_ref()?;
        (wish.release.as_ref()?.rollout == rollout.id).then(|| wish.is_acknowledged())
    }

    fn is_before_its_turn(&self) -> bool {
        matches!(self.state, DeviceState::Queued | DeviceState::Waiting)
    }

    fn step(self) -> Option<DeviceStep> {
        let Self { facts, state: to, waiting_for, reason, wish, moved } = self;
        moved.then(|| DeviceStep { endpoint: facts.endpoint.clone(), to, waiting_for, reason, wish })
    }
}

/// Lets what is known of a device count: that it is gone, what it said, that a newer rollout has it, that it took the wish.
fn settle(rollout: &RolloutRow, place: &mut Place<'_>) {
    let Some((_, standing)) = place.facts.present else {
        let reason = Reason::new(ReasonCode::DeviceDeleted, "the device was deleted");
        return place.go(DeviceState::Cancelled, Some(reason), WishStep::Clear);
    };
    let heard = place.facts.said.as_ref().and_then(|said| heard(rollout, said));
    match heard {
        Some((state, _, reason)) if state.is_end() => {
            // Nothing may bring a device back to a release that failed on it.
            let wish = if state == DeviceState::Succeeded { WishStep::Leave } else { WishStep::Clear };
            place.go(state, reason, wish);
        }
        _ if place.facts.newer => {
            let reason = Reason::new(ReasonCode::Superseded, "a rollout that was started later decides");
            place.go(DeviceState::Superseded, Some(reason), WishStep::Clear);
        }
        Some((state, waiting_for, reason)) => place.put((state, waiting_for), reason, WishStep::Leave),
        None if place.is_before_its_turn() && place.wished(rollout) == Some(true) && standing == Standing::Active => {
            place.go(DeviceState::Offered, None, WishStep::Leave);
        }
        None => {}
    }
}

/// What a report means for the rollout; nothing, if it is about something else.
fn heard(rollout: &RolloutRow, said: &DeviceReport) -> Option<(DeviceState, Option<WaitingFor>, Option<Reason>)> {
    if said.rollout.as_ref() != Some(&rollout.id) || said.digest != Some(rollout.digest) {
        return None;
    }
    let code = said.reason.as_ref().map(|reason| reason.code);
    let (state, waiting_for) = match (said.phase, code) {
        (Phase::Idle, _) => return None,
        (Phase::Downloading, _) => (DeviceState::Downloading, None),
        (Phase::Verifying, _) => (DeviceState::Verifying, None),
        (Phase::Installing, _) => (DeviceState::Installing, None),
        (Phase::Trial, _) => (DeviceState::Trial, None),
        (Phase::Succeeded, _) => (DeviceState::Succeeded, None),
        // The device tries again by itself once it has contact; that is no failure of the release.
        (Phase::Failed | Phase::RolledBack, Some(ReasonCode::NoContact)) => {
            (DeviceState::Waiting, Some(WaitingFor::Asleep))
        }
        (Phase::Failed | Phase::RolledBack, Some(ReasonCode::Superseded)) => (DeviceState::Superseded, None),
        (Phase::Failed, _) => (DeviceState::Failed, None),
        (Phase::RolledBack, _) => (DeviceState::RolledBack, None),
    };
    Some((state, waiting_for, said.reason.clone()))
}

/// Why the rollout must stop, if so many devices have failed.
fn over_threshold(facts: &RolloutFacts, places: &[Place<'_>]) -> Option<Reason> {
    const FAILED: &[DeviceState] = &[DeviceState::Failed, DeviceState::RolledBack];
    let ended = facts.counts.of(FAILED);
    let just_now: Vec<&Place<'_>> = places.iter().filter(|place| FAILED.contains(&place.state)).collect();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let failed = ended.saturating_add(count(just_now.len()));
    let joined = places.iter().filter(|place| place.facts.at.is_none()).count();
    let all = facts.counts.total().saturating_add(count(joined));
    let (reached, limit) = match facts.rollout.wanted.threshold {
        Threshold::Count(limit) => (failed >= u64::from(limit), format!("{limit}")),
        Threshold::Percent(limit) => {
            (failed.saturating_mul(100) >= all.saturating_mul(u64::from(limit)), format!("{limit} per cent"))
        }
    };
    if failed == 0 || !reached {
        return None;
    }
    let last = just_now.last().and_then(|place| {
        let reason = place.reason.as_ref()?;
        Some(format!("; the last one, {}, with {}: {}", place.facts.endpoint, reason.code, reason.text))
    });
    let text = format!("{failed} of {all} devices failed, the threshold is {limit}{}", last.unwrap_or_default());
    Some(Reason::new(ReasonCode::FailureThreshold, text))
}

/// Offers the release to devices whose turn it is, and says of the others what they wait for.
fn offer(rollout: &RolloutRow, places: &mut [Place<'_>], now: UnixSeconds) {
    let open = rollout.wanted.window.is_none_or(|window| is_open(window, now));
    let busy = places.iter().filter(|place| is_busy(rollout, place)).count();
    let mut room = match rollout.wanted.max_in_flight {
        Some(most) => usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(busy),
        None => usize::MAX,
    };
    for place in places.iter_mut().filter(|place| place.is_before_its_turn()) {
        let Some((connected, standing)) = place.facts.present else { continue };
        let wished = place.wished(rollout).is_some();
        if is_retrying(rollout, place) || (wished && connected && standing == Standing::Active) {
            continue;
        }
        // What a device has not taken yet is taken back, so that it does not begin outside of window or quota.
        let back = if wished { WishStep::Clear } else { WishStep::Leave };
        let wait = |what| ((DeviceState::Waiting, Some(what)), None, back);
        let (to, reason, wish) = if runs_already(rollout, place) {
            let reason = Reason::new(ReasonCode::AlreadyRunning, "the device already runs the release");
            ((DeviceState::Skipped, None), Some(reason), back)
        } else if standing != Standing::Active {
            wait(WaitingFor::Quarantined)
        } else if !agreed(rollout, place) {
            wait(WaitingFor::Consent)
        } else if !open {
            wait(WaitingFor::Window)
        } else if !connected {
            wait(WaitingFor::Asleep)
        } else if room == 0 {
            wait(WaitingFor::Quota)
        } else {
            room -= 1;
            ((DeviceState::Queued, None), None, WishStep::Set)
        };
        place.put(to, reason, wish);
    }
}

/// Takes back what no device has taken yet.
fn hold(rollout: &RolloutRow, places: &mut [Place<'_>]) {
    for place in places.iter_mut().filter(|place| place.is_before_its_turn()) {
        if place.wished(rollout).is_some() && !is_retrying(rollout, place) {
            place.go(DeviceState::Queued, None, WishStep::Clear);
        }
    }
}

/// Ends the rollout on every device that can still stay where it is; one that is switching goes on to its own end.
fn wind_down(state: RolloutState, places: &mut [Place<'_>]) {
    let reason = if state == RolloutState::Aborted {
        Reason::new(ReasonCode::Aborted, "an operator ended the rollout")
    } else {
        Reason::new(ReasonCode::FailureThreshold, "the rollout stopped because too many devices failed")
    };
    for place in places {
        match place.state {
            DeviceState::Queued
            | DeviceState::Waiting
            | DeviceState::Offered
            | DeviceState::Downloading
            | DeviceState::Verifying => place.go(DeviceState::Cancelled, Some(reason.clone()), WishStep::Clear),
            DeviceState::Installing
            | DeviceState::Trial
            | DeviceState::Succeeded
            | DeviceState::Failed
            | DeviceState::RolledBack
            | DeviceState::Skipped
            | DeviceState::Superseded
            | DeviceState::Cancelled => {}
        }
    }
}

/// Whether the device counts against the quota: it works on the wish, or will as soon as the wish has reached it.
fn is_busy(rollout: &RolloutRow, place: &Place<'_>) -> bool {
    let reachable = matches!(place.facts.present, Some((true, Standing::Active)));
    place.state.is_under_way()
        || (place.is_before_its_turn() && place.wished(rollout).is_some() && reachable && !is_retrying(rollout, place))
}

/// Whether the device lost contact on trial and tries the release again by itself.
fn is_retrying(rollout: &RolloutRow, place: &Place<'_>) -> bool {
    let said = place.facts.said.as_ref().and_then(|said| heard(rollout, said));
    matches!(said, Some((DeviceState::Waiting, ..)))
}

/// Whether everybody whose consent the rollout asks for has given it.
const fn agreed(rollout: &RolloutRow, place: &Place<'_>) -> bool {
    match rollout.wanted.consent {
        Consent::Automatic => true,
        Consent::Operator => place.facts.consented,
    }
}

/// Whether the device has nothing to do: it runs the release and is not in the middle of something.
fn runs_already(rollout: &RolloutRow, place: &Place<'_>) -> bool {
    place.facts.said.as_ref().is_some_and(|said| {
        let settled = matches!(said.phase, Phase::Idle | Phase::Succeeded | Phase::Failed | Phase::RolledBack);
        settled && said.running_digest == Some(rollout.digest)
    })
}

/// Whether `now` lies in the window; one without length is open all day.
fn is_open(window: DailyWindow, now: UnixSeconds) -> bool {
    const DAY: u64 = 24 * 60;
    let minute = now.0 / 60 % DAY;
    let (from, until) = (u64::from(window.from), u64::from(window.until));
    if from < until { (from..until).contains(&minute) } else { minute >= from || minute < until }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
