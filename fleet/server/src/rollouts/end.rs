//! When a rollout that runs has come to its end. Never decides about a device that can still be reached.

use fleet_store::{RolloutFacts, RolloutRow, WishStep};
use protocol_types::{DeviceState, Reason, ReasonCode, RolloutState, UnixSeconds};

use super::{
    hold::needs_a_person,
    place::Place,
    plan::{GOOD, OPEN},
    waves::{self, Tallies},
};

/// The state to which a rollout that runs has come by itself, and why where that needs saying.
pub(super) fn ends(
    facts: &RolloutFacts,
    (rollout, tallies): (&RolloutRow, &Tallies),
    places: &mut [Place<'_>],
    now: UnixSeconds,
) -> Option<(RolloutState, Option<Reason>)> {
    if rollout.wanted.subject.in_force_after(&rollout.wanted.audience).is_some() {
        return of_document((rollout, tallies), places, now);
    }
    if tallies.all(OPEN) > 0 {
        return None;
    }
    let retired = facts.retired_by.as_ref().map(|by| {
        let text = format!("rollout {by} decides for the whole audience and has brought it to an end");
        Reason::new(ReasonCode::Superseded, text)
    });
    let ends = rollout.closed || retired.is_some();
    ends.then(|| (RolloutState::Finished, retired.filter(|_| !rollout.closed)))
}

/// The end of a rollout of a document to all whom it is for. It comes once the document has gone well on every device that could be reached,
/// so that it may be in force for all: those that join later need no rollout then, and those that are away or held back get it when they
/// are back.
fn of_document(
    (rollout, tallies): (&RolloutRow, &Tallies),
    places: &mut [Place<'_>],
    now: UnixSeconds,
) -> Option<(RolloutState, Option<Reason>)> {
    let is_out_of_reach = |place: &Place<'_>| place.is_away(now) || needs_a_person(rollout, place).is_some();
    let is_through = rollout.wave >= waves::last(&rollout.wanted.policy.waves);
    if !is_through || places.iter().any(|place| !place.state.is_end() && !is_out_of_reach(place)) {
        return None;
    }
    let all = tallies.all(DeviceState::ALL);
    if all > 0 && tallies.all(GOOD) == 0 {
        let text = format!("none of {all} devices succeeded");
        let stops = tallies.all(OPEN) == 0;
        return stops.then(|| (RolloutState::Stopped, Some(Reason::new(ReasonCode::SuccessThreshold, text))));
    }
    for place in places.iter_mut().filter(|place| !place.state.is_end()) {
        let text = "the document is in force for all, and the device gets it when it is back";
        place.go(DeviceState::Cancelled, Some(Reason::new(ReasonCode::Superseded, text)), WishStep::Clear);
    }
    Some((RolloutState::Finished, None))
}
