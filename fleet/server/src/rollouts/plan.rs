//! Decides what a rollout does next from what is known: a function of facts and time, without memory. Never touches the store.
//!
//! In this order: what devices said decides first; then a rollout that ranks higher takes devices over, or gives them back; then
//! devices get their waves and the thresholds may stop the rollout or open the next wave; then devices that no rule holds are
//! offered the release, as many as pace and quota leave room for; and when the audience is closed and every device has come to an
//! end, so has the rollout. Deciding again on the outcome of a decision decides nothing new, so it does not matter how often, or
//! after which crash, somebody asks.

use fleet_store::{Decision, RolloutFacts, RolloutRow, Tally, Threshold, WishStep};
use protocol_types::{
    Consent, DeviceState, OnFailure, Reason, ReasonCode, RolloutId, RolloutState, UnixSeconds, WaitingFor,
};

use super::{
    end,
    hold::{Hold, hold, needs_a_person, pause, runs_already},
    pace::{Pace, pace, per_hour},
    place::Place,
    report::heard,
    waves::{self, Assignment, Passage, Tallies, WaveFacts, lot, passage},
};

pub(super) const GOOD: &[DeviceState] = &[DeviceState::Succeeded, DeviceState::Skipped];
const FAILED: &[DeviceState] = &[DeviceState::Failed, DeviceState::RolledBack];
pub(super) const OPEN: &[DeviceState] = &[
    DeviceState::Queued,
    DeviceState::Waiting,
    DeviceState::Offered,
    DeviceState::Downloading,
    DeviceState::Verifying,
    DeviceState::Installing,
    DeviceState::Trial,
];

/// What happens next.
pub(crate) fn decide(facts: &RolloutFacts, now: UnixSeconds) -> Decision {
    let Judgement { rollout, places, outcome } = judge(facts, now);
    Decision {
        devices: places.into_iter().filter_map(Place::step).collect(),
        wave: (rollout.wave != facts.rollout.wave).then_some(rollout.wave),
        closes: rollout.closed && !facts.rollout.closed,
        brings_back: rollout.state == RolloutState::Stopped && facts.returnable > 0,
        rollout: outcome,
    }
}

/// A decision with what led to it.
#[derive(Debug)]
pub(crate) struct Judgement<'a> {
    /// The rollout as the decision leaves it.
    pub(crate) rollout: RolloutRow,
    pub(crate) places: Vec<Place<'a>>,
    outcome: Option<(RolloutState, Option<Reason>)>,
}

/// Looks at every device and says what becomes of it.
pub(crate) fn judge(facts: &RolloutFacts, now: UnixSeconds) -> Judgement<'_> {
    let mut rollout = facts.rollout.clone();
    let mut outcome = None;
    if matches!(rollout.state, RolloutState::Draft | RolloutState::Finished) {
        return Judgement { rollout, places: Vec::new(), outcome };
    }
    let mut places: Vec<Place<'_>> = facts.devices.iter().map(Place::new).collect();
    for place in &mut places {
        settle(&rollout, place, now);
    }
    if rollout.state == RolloutState::Running {
        assign(facts, &mut places);
        rollout.closed |= rollout.wanted.policy.closes_at_start;
    }
    let tallies = tallies(facts, &places);
    if !rollout.state.is_end() {
        let stops =
            over_threshold(&rollout, &tallies, &places).or_else(|| open_waves(&mut rollout, &tallies, &places, now));
        let to = match rollout.wanted.on_failure {
            OnFailure::Stop | OnFailure::Return => RolloutState::Stopped,
            OnFailure::Pause => RolloutState::Paused,
        };
        if let Some(reason) = stops.filter(|_| rollout.state != to) {
            rollout.state = to;
            outcome = Some((to, Some(reason)));
        }
    }
    match rollout.state {
        RolloutState::Running => offer(facts, &rollout, &tallies, &mut places, now),
        RolloutState::Paused => take_back(&rollout, &mut places),
        RolloutState::Stopped | RolloutState::Aborted => wind_down(rollout.state, &mut places),
        RolloutState::Draft | RolloutState::Finished => {}
    }
    if rollout.state == RolloutState::Running {
        let after = self::tallies(facts, &places);
        if let Some((state, reason)) = end::ends(facts, (&rollout, &after), &mut places, now) {
            rollout.state = state;
            outcome = Some((state, reason));
        }
    }
    Judgement { rollout, places, outcome }
}

/// Lets what is known of a device count: that it is gone, what it said, which rollout ranks higher, that it took the wish.
fn settle(rollout: &RolloutRow, place: &mut Place<'_>, now: UnixSeconds) {
    if place.facts.present.is_none() {
        let reason = Reason::new(ReasonCode::DeviceDeleted, "the device was deleted");
        return place.go(DeviceState::Cancelled, Some(reason), WishStep::Clear);
    }
    if !place.facts.meant {
        let reason = Reason::new(ReasonCode::Superseded, "the document is not for the device any more");
        return place.go(DeviceState::Cancelled, Some(reason), WishStep::Clear);
    }
    let said = heard(rollout, place.facts.said.as_ref(), place.attempt);
    match (said, &place.facts.outranked_by) {
        (Some((DeviceState::Succeeded, ..)), _) => {
            place.tally = Tally::Success;
            place.go(DeviceState::Succeeded, None, WishStep::Leave);
        }
        (Some((state @ (DeviceState::Failed | DeviceState::RolledBack), _, reason)), _) => {
            fail(rollout, place, (state, reason), now);
            if let Some(other) = place.facts.outranked_by.as_ref().filter(|_| !place.state.is_end()) {
                give_way(place, other);
            }
        }
        (_, Some(other)) if place.state != DeviceState::Superseded => {
            give_way(place, other);
        }
        (_, Some(_)) => {}
        // Nothing is in its way any more, so it has its turn again.
        (Some((DeviceState::Superseded, ..)), None) => give_back(rollout, place),
        (_, None) if place.state == DeviceState::Superseded => give_back(rollout, place),
        (Some((DeviceState::Waiting, _, Some(reason))), None) if reason.code == ReasonCode::ConsentRefused => {
            ask_later(rollout, place, reason, now);
        }
        (Some((state, waiting_for, reason)), None) => place.put((state, waiting_for), reason, WishStep::Leave),
        (None, None) if place.is_before_its_turn() && place.wished(rollout) == Some(true) && is_active(place) => {
            place.go(DeviceState::Offered, None, WishStep::Leave);
        }
        // The wish is gone, so the device will not come to an end by itself.
        (None, None) if place.state.is_under_way() && !place.has_wish_of(rollout) => give_back(rollout, place),
        (None, None) => {}
    }
}

fn is_active(place: &Place<'_>) -> bool {
    place.facts.present.is_some_and(|(_, standing)| standing == protocol_types::Standing::Active)
}

fn give_way(place: &mut Place<'_>, other: &RolloutId) {
    let reason = Reason::new(ReasonCode::Superseded, format!("rollout {other} decides"));
    place.go(DeviceState::Superseded, Some(reason), WishStep::Clear);
}

fn give_back(rollout: &RolloutRow, place: &mut Place<'_>) {
    place.try_anew();
    let wish = if place.has_wish_of(rollout) { WishStep::Clear } else { WishStep::Leave };
    place.go(DeviceState::Queued, None, wish);
}

/// Somebody at the device said no: it asks again with another try, but not soon, and no later than from the deadline on.
fn ask_later(rollout: &RolloutRow, place: &mut Place<'_>, reason: Reason, now: UnixSeconds) {
    let policy = &rollout.wanted.policy;
    let again = UnixSeconds(now.0.saturating_add(policy.ask_again_s.into()));
    place.not_before = Some(policy.consent_deadline.map_or(again, |deadline| again.min(deadline)));
    place.try_anew();
    place.put((DeviceState::Waiting, Some(WaitingFor::Consent)), Some(reason), WishStep::Clear);
}

/// A try has failed: there is another one, or the device has come to an end.
fn fail(rollout: &RolloutRow, place: &mut Place<'_>, (state, reason): (DeviceState, Option<Reason>), now: UnixSeconds) {
    place.tally = Tally::Failure;
    place.failed = place.failed.saturating_add(1);
    if rollout.state.is_end() || place.failed > u32::from(rollout.wanted.policy.retries.most) {
        // Nothing may bring a device back to a release that failed on it.
        return place.go(state, reason, WishStep::Clear);
    }
    let wait = pause(rollout, place.failed, lot(&rollout.id, &place.facts.endpoint));
    place.not_before = Some(UnixSeconds(now.0.saturating_add(wait)));
    place.try_anew();
    place.put((DeviceState::Waiting, Some(WaitingFor::Retry)), reason, WishStep::Clear);
}

/// Gives a wave to each device that has none.
fn assign(facts: &RolloutFacts, places: &mut [Place<'_>]) {
    let rollout = &facts.rollout;
    let mut fresh: Vec<&mut Place<'_>> = places.iter_mut().filter(|place| place.wave.is_none()).collect();
    let count = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
    fresh.sort_by_cached_key(|place| lot(&rollout.id, &place.facts.endpoint));
    let mut assignment = Assignment::new(&rollout.wanted.policy.waves, &Tallies::of(facts), count);
    for place in fresh {
        place.join(assignment.wave_of(&place.facts.matches));
    }
}

/// How many devices are where, with what the decision has moved so far.
fn tallies(facts: &RolloutFacts, places: &[Place<'_>]) -> Tallies {
    let mut tallies = Tallies::of(facts);
    for place in places {
        tallies.moves(place.facts.at.map(|(state, _)| (place.facts.wave, state)), (place.wave, place.state));
    }
    tallies
}

/// Why the rollout must stop, if so many devices of the open waves have failed.
fn over_threshold(rollout: &RolloutRow, tallies: &Tallies, places: &[Place<'_>]) -> Option<Reason> {
    let open = rollout.wave;
    let failed = tallies.all(FAILED).saturating_sub(rollout.excused);
    let all = tallies.up_to(open, DeviceState::ALL);
    let (reached, limit) = match rollout.wanted.threshold {
        Threshold::Count(limit) => (failed >= u64::from(limit), format!("{limit}")),
        Threshold::Percent(limit) => {
            (failed.saturating_mul(100) >= all.saturating_mul(u64::from(limit)), format!("{limit} per cent"))
        }
    };
    if failed == 0 || !reached {
        return None;
    }
    let last = places.iter().rfind(|place| FAILED.contains(&place.state)).and_then(|place| {
        let reason = place.reason.as_ref()?;
        Some(format!("; the last one, {}, with {}: {}", place.facts.endpoint, reason.code, reason.text))
    });
    let text = format!("{failed} of {all} devices failed, the threshold is {limit}{}", last.unwrap_or_default());
    Some(Reason::new(ReasonCode::FailureThreshold, text))
}

/// Opens the next wave, and the one after it, as far as those before let it; or says why the rollout must stop.
fn open_waves(rollout: &mut RolloutRow, tallies: &Tallies, places: &[Place<'_>], now: UnixSeconds) -> Option<Reason> {
    let policy = &rollout.wanted.policy;
    let last = waves::last(&policy.waves);
    while rollout.state == RolloutState::Running && rollout.wave < last {
        let facts = wave_facts(rollout, tallies, places, now);
        match passage(facts, policy.success_percent, rollout.excused) {
            Passage::Open => rollout.wave += 1,
            Passage::Shut => return None,
            Passage::Missed => {
                let WaveFacts { succeeded, failed, asleep, .. } = facts;
                let all = succeeded + failed + asleep;
                let wanted =
                    policy.success_percent.map_or("one device".to_owned(), |percent| format!("{percent} per cent"));
                let number = rollout.wave + 1;
                let text =
                    format!("{succeeded} of {all} devices of wave {number} succeeded, the threshold is {wanted}");
                return Some(Reason::new(ReasonCode::SuccessThreshold, text));
            }
        }
    }
    None
}

/// How the wave that was opened last stands. Devices that wait for a person are left out: they may wait for ever.
fn wave_facts(rollout: &RolloutRow, tallies: &Tallies, places: &[Place<'_>], now: UnixSeconds) -> WaveFacts {
    let wave = rollout.wave;
    let (mut held, mut asleep) = (0, 0);
    for place in places.iter().filter(|place| place.wave == Some(wave) && !place.state.is_end()) {
        if needs_a_person(rollout, place).is_some() {
            held += 1;
        } else if place.is_away(now) || waits_for_people(rollout, place) {
            asleep += 1;
        }
    }
    WaveFacts {
        succeeded: tallies.in_wave(wave, GOOD),
        failed: tallies.in_wave(wave, FAILED),
        open: tallies.in_wave(wave, OPEN).saturating_sub(held + asleep),
        asleep,
    }
}

/// Whether the device waits for somebody at it, as long as that may take.
fn waits_for_people(rollout: &RolloutRow, place: &Place<'_>) -> bool {
    rollout.wanted.consent == Consent::Device && place.waiting_for == Some(WaitingFor::Consent)
}

/// Offers what the rollout brings to devices whose turn it is, and says of the others what they wait for.
fn offer(facts: &RolloutFacts, rollout: &RolloutRow, tallies: &Tallies, places: &mut [Place<'_>], now: UnixSeconds) {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let busy = count(places.iter().filter(|place| place.is_busy(rollout)).count());
    let mut room = rollout.wanted.max_in_flight.map_or(u64::MAX, |most| u64::from(most).saturating_sub(busy));
    let Pace { room: mut turn, next } = match rollout.wanted.policy.rate {
        Some(rate) => pace(per_hour(rate, tallies.all(GOOD), tallies.all(FAILED)), &facts.offers, now),
        None => Pace { room: u64::MAX, next: None },
    };
    let mut order: Vec<&mut Place<'_>> = places.iter_mut().filter(|place| place.is_before_its_turn()).collect();
    order.sort_by_key(|place| place.wave);
    for place in order {
        let wished = place.wished(rollout).is_some();
        if place.is_retrying(rollout) || (wished && place.is_reachable()) {
            continue;
        }
        // What a device has not taken yet is taken back, so that it does not begin where a rule holds it.
        let back = if place.has_wish_of(rollout) { WishStep::Clear } else { place.wish };
        if runs_already(rollout, place.facts) {
            let reason = Reason::new(ReasonCode::AlreadyRunning, "the device already runs the release");
            place.go(DeviceState::Skipped, Some(reason), back);
            continue;
        }
        let by_turn = |waiting_for, next| Some(Hold { waiting_for, next });
        let held = hold(rollout, place, now)
            .or_else(|| if turn == 0 { by_turn(WaitingFor::Rate, next) } else { None })
            .or_else(|| if room == 0 { by_turn(WaitingFor::Quota, None) } else { None });
        place.held = held;
        if let Some(Hold { waiting_for, .. }) = held {
            let reason = place.reason.take().filter(|_| matches!(waiting_for, WaitingFor::Retry | WaitingFor::Consent));
            place.put((DeviceState::Waiting, Some(waiting_for)), reason, back);
        } else {
            (room, turn) = (room - 1, turn - 1);
            place.not_before = None;
            place.put((DeviceState::Queued, None), None, WishStep::Set);
        }
    }
}

/// Takes back what no device has taken yet.
fn take_back(rollout: &RolloutRow, places: &mut [Place<'_>]) {
    for place in places.iter_mut().filter(|place| place.is_before_its_turn()) {
        if place.has_wish_of(rollout) && place.wish != WishStep::Clear && !place.is_retrying(rollout) {
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

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
