//! Why a device does not have what a rollout brings: the rule, what shows it, when it is looked at again, and what a person can do.
//! It is the plan's own judgement that is told here, never a second one.

use fleet_store::{Audience, DeviceFacts, RolloutDeviceRow, RolloutFacts, RolloutRow, Subject};
use protocol_types::{Consent, DeviceState, EndpointName, Reason, RolloutState, UnixSeconds, WaitingFor};

use super::{
    hold::{Hold, hold, was_refused},
    pace::per_hour,
    place::Place,
    plan::{Judgement, judge},
    waves::Tallies,
    window::is_zone,
};

/// The rule of a device that no other rule holds.
pub(super) const OFFERED: &str = "offered";

/// The answer for one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) endpoint: EndpointName,
    /// How far the rollout is on it; `None` if it is not on the list.
    pub(crate) state: Option<DeviceState>,
    /// The stable name of the rule.
    pub(crate) rule: &'static str,
    /// What shows that the rule applies.
    pub(crate) evidence: Vec<(&'static str, String)>,
    /// The rule in a sentence.
    pub(crate) text: String,
    /// When the device is tried next, where time alone decides that.
    pub(crate) next: Option<UnixSeconds>,
    /// What a person can do.
    pub(crate) hint: String,
}

/// The answers for the devices of a rollout on which something may still change, if it is asked now.
pub(crate) fn explain(facts: &RolloutFacts, now: UnixSeconds) -> Vec<Why> {
    let Judgement { rollout, places, .. } = judge(facts, now);
    if places.is_empty() {
        return facts.devices.iter().map(|device| idle(&rollout, device)).collect();
    }
    places
        .iter()
        .filter(|place| !matches!(place.state, DeviceState::Succeeded | DeviceState::Skipped))
        .map(|place| of_place(facts, &rollout, place, now))
        .collect()
}

/// The answer for a device that is not in the audience, or comes too late for it.
pub(crate) fn not_in_audience(rollout: &RolloutRow, endpoint: EndpointName) -> Why {
    let (rule, text, hint) = if rollout.closed && !matches!(rollout.wanted.audience, Audience::Devices(_)) {
        (
            "audience_closed",
            "the audience of the rollout was closed before the device came",
            "start another rollout for it",
        )
    } else {
        (
            "not_in_audience",
            "the device is not in the audience of the rollout",
            "look at the audience with `mbl rollout show`",
        )
    };
    let evidence = vec![("rollout_state", rollout.state.to_string())];
    let (text, hint) = (text.to_owned(), hint.to_owned());
    Why { endpoint, state: None, rule, evidence, text, next: None, hint }
}

/// The answer for a device that has come to an end; `None` if it runs the release.
pub(crate) fn ended(row: &RolloutDeviceRow) -> Option<Why> {
    let RolloutDeviceRow { endpoint, state, reason, failed, since, .. } = row;
    if matches!(state, DeviceState::Succeeded | DeviceState::Skipped) {
        return None;
    }
    let evidence = vec![("failed_tries", failed.to_string()), ("since", since.0.to_string())];
    Some(of_end(endpoint, *state, reason.as_ref(), evidence))
}

fn of_end(
    endpoint: &EndpointName,
    state: DeviceState,
    reason: Option<&Reason>,
    mut evidence: Vec<(&'static str, String)>,
) -> Why {
    let hint = match (state, reason) {
        (DeviceState::Failed | DeviceState::RolledBack, Some(reason)) => {
            format!("{}; then start another rollout", reason.code.hint())
        }
        (_, Some(reason)) => reason.code.hint().to_owned(),
        (_, None) => "start another rollout for the device".to_owned(),
    };
    if let Some(reason) = reason {
        evidence.extend([("reason_code", reason.code.to_string()), ("reason", reason.text.clone())]);
    }
    let text = reason.map_or_else(|| format!("the device is {state}"), |reason| reason.text.clone());
    Why { endpoint: endpoint.clone(), state: Some(state), rule: state.as_str(), evidence, text, next: None, hint }
}

/// The answer where the rollout decides nothing.
fn idle(rollout: &RolloutRow, device: &DeviceFacts) -> Why {
    let (rule, text, hint) = match rollout.state {
        RolloutState::Draft => ("draft", "the rollout was not started", "start it"),
        RolloutState::Running
        | RolloutState::Paused
        | RolloutState::Stopped
        | RolloutState::Aborted
        | RolloutState::Finished => ("over", "the rollout is over", "start another rollout for the device"),
    };
    Why {
        endpoint: device.endpoint.clone(),
        state: device.at.map(|(state, _)| state),
        rule,
        evidence: vec![("rollout_state", rollout.state.to_string())],
        text: text.to_owned(),
        next: None,
        hint: hint.to_owned(),
    }
}

fn of_place(facts: &RolloutFacts, rollout: &RolloutRow, place: &Place<'_>, now: UnixSeconds) -> Why {
    let device = place.facts;
    if place.state.is_end() {
        let evidence = vec![("failed_tries", place.failed.to_string())];
        return of_end(&device.endpoint, place.state, place.reason.as_ref(), evidence);
    }
    // A device that waits since an earlier look is held by the same rules now.
    let held = place.held.or_else(|| {
        let rule = hold(rollout, place, now);
        rule.filter(|rule| rollout.state == RolloutState::Running && Some(rule.waiting_for) == place.waiting_for)
    });
    let (rule, text, hint) = match (rollout.state, place.state, place.waiting_for) {
        (RolloutState::Paused, DeviceState::Queued | DeviceState::Waiting, _) => (
            "paused",
            rollout.reason.as_ref().map_or("an operator paused the rollout".to_owned(), |reason| reason.text.clone()),
            "let it go on with `mbl rollout resume`, or end it with `mbl rollout abort`",
        ),
        (_, DeviceState::Waiting, Some(what)) => (what.as_str(), sentence(rollout, place, what), hint(rollout, what)),
        (_, DeviceState::Queued | DeviceState::Waiting, _) => (
            OFFERED,
            format!("{} is offered; the device has not taken it yet", brought(rollout)),
            "nothing: the device takes it with its next message",
        ),
        (_, state, _) => ("under_way", format!("the device is at it: {state}"), "nothing: wait for its end"),
    };
    let mut evidence = vec![
        ("rollout_state", rollout.state.to_string()),
        ("wave", (place.wave.unwrap_or_default() + 1).to_string()),
        ("open_wave", (rollout.wave + 1).to_string()),
    ];
    evidence.extend(shown(facts, rollout, place));
    Why {
        endpoint: device.endpoint.clone(),
        state: Some(place.state),
        rule,
        evidence,
        text,
        next: held.and_then(|Hold { next, .. }| next),
        hint: hint.to_owned(),
    }
}

/// The facts behind a rule.
fn shown(facts: &RolloutFacts, rollout: &RolloutRow, place: &Place<'_>) -> Vec<(&'static str, String)> {
    let device = place.facts;
    let wanted = &rollout.wanted;
    let tallies = Tallies::of(facts);
    match place.waiting_for.filter(|_| place.state == DeviceState::Waiting) {
        Some(WaitingFor::Quarantined) => {
            let standing = device.present.map_or("gone", |(_, standing)| standing.as_str());
            vec![("standing", standing.to_owned())]
        }
        Some(WaitingFor::Failures) => vec![
            ("failures_in_a_row", place.failures().to_string()),
            ("hold_after", wanted.policy.hold_after.to_string()),
        ],
        Some(WaitingFor::Consent) if wanted.consent == Consent::Device => {
            let answer = if was_refused(rollout, place) { "no" } else { "none" };
            let deadline = wanted.policy.consent_deadline.map_or("none".to_owned(), |moment| moment.0.to_string());
            vec![("answer", answer.to_owned()), ("deadline", deadline)]
        }
        Some(WaitingFor::Consent) => vec![("consented", device.consented.to_string())],
        Some(WaitingFor::Approval) => {
            vec![("started_by", rollout.started_by.clone().unwrap_or_default())]
        }
        Some(WaitingFor::Schedule) => {
            vec![("not_before", wanted.policy.not_before.map_or(0, |moment| moment.0).to_string())]
        }
        Some(WaitingFor::Retry) => vec![
            ("failed_tries", place.failed.to_string()),
            ("tries", (u32::from(wanted.policy.retries.most) + 1).to_string()),
        ],
        Some(WaitingFor::Wave) => {
            let open: Vec<DeviceState> = DeviceState::ALL.iter().copied().filter(|state| !state.is_end()).collect();
            vec![("open_devices_of_wave", tallies.in_wave(rollout.wave, &open).to_string())]
        }
        Some(WaitingFor::Window) => wanted
            .window
            .iter()
            .flat_map(|hours| {
                let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
                let zone = match device.zone.as_deref() {
                    None => "UTC".to_owned(),
                    Some(name) if is_zone(name) => name.to_owned(),
                    Some(name) => format!("UTC, as `{name}` names no time zone"),
                };
                [("window", format!("{}-{}", time(hours.from), time(hours.until))), ("device_zone", zone)]
            })
            .collect(),
        Some(WaitingFor::Rate) => wanted
            .policy
            .rate
            .iter()
            .map(|rate| {
                let succeeded = tallies.all(&[DeviceState::Succeeded, DeviceState::Skipped]);
                let failed = tallies.all(&[DeviceState::Failed, DeviceState::RolledBack]);
                ("devices_per_hour", per_hour(*rate, succeeded, failed).to_string())
            })
            .collect(),
        Some(WaitingFor::Quota) => {
            vec![("max_in_flight", wanted.max_in_flight.map_or("all".to_owned(), |most| most.to_string()))]
        }
        Some(WaitingFor::Asleep) => {
            vec![("connected", device.present.is_some_and(|(connected, _)| connected).to_string())]
        }
        None => device.said.iter().map(|said| ("phase", said.phase.to_string())).collect(),
    }
}

const fn brought(rollout: &RolloutRow) -> &'static str {
    match rollout.wanted.subject {
        Subject::Release(_) => "the release",
        Subject::Configuration { .. } => "the configuration",
    }
}

fn sentence(rollout: &RolloutRow, place: &Place<'_>, what: WaitingFor) -> String {
    let wanted = &rollout.wanted;
    match what {
        WaitingFor::Quarantined => "the device may not take part: its identity is held back or suspended".to_owned(),
        WaitingFor::Failures => {
            format!("the last {} tries on the device failed, so it is held back", place.failures())
        }
        WaitingFor::Consent if was_refused(rollout, place) => "somebody at the device said no".to_owned(),
        WaitingFor::Consent if wanted.consent == Consent::Device => {
            "the release is in its place, and the device asks somebody at it".to_owned()
        }
        WaitingFor::Consent => "no operator has said yes for the device".to_owned(),
        WaitingFor::Approval => "nobody but who started the rollout has approved it".to_owned(),
        WaitingFor::Schedule => "the rollout offers nothing before its time".to_owned(),
        WaitingFor::Retry => {
            let reason = place.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("try {} failed, the next one comes later{reason}", place.failed)
        }
        WaitingFor::Wave => {
            format!(
                "the device is in wave {}, wave {} is not over",
                place.wave.unwrap_or_default() + 1,
                rollout.wave + 1
            )
        }
        WaitingFor::Window => "the hours in which the rollout may act are not now".to_owned(),
        WaitingFor::Rate => "the rollout has offered as much as its rate allows for now".to_owned(),
        WaitingFor::Quota => {
            let most = wanted.max_in_flight.unwrap_or_default();
            format!("{most} devices are under way, and no more may be at a time")
        }
        WaitingFor::Asleep if place.is_reachable() => {
            "the device lost contact on trial and tries again by itself".to_owned()
        }
        WaitingFor::Asleep => "the device is not connected".to_owned(),
    }
}

/// What a person can do about a rule.
const fn hint(rollout: &RolloutRow, what: WaitingFor) -> &'static str {
    match what {
        WaitingFor::Quarantined => "look at it with `mbl device show`, then let it take part with `mbl device resume`",
        WaitingFor::Failures => "find out why it fails, then `mbl device forgive`",
        WaitingFor::Consent if matches!(rollout.wanted.consent, Consent::Device) => {
            "answer at the device with `mbl-updater consent`; after a no, `mbl rollout ask-again` lets it ask now"
        }
        WaitingFor::Consent => "say yes with `mbl rollout consent`",
        WaitingFor::Approval => "have somebody else run `mbl rollout approve`",
        WaitingFor::Schedule | WaitingFor::Window | WaitingFor::Rate | WaitingFor::Retry => {
            "nothing: its turn comes by itself"
        }
        WaitingFor::Wave => "see what the wave waits for with `mbl rollout why`",
        WaitingFor::Quota => "nothing: its turn comes when another device has come to its end",
        WaitingFor::Asleep => "turn it on or mend its network",
    }
}
