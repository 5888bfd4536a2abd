//! Claims about the plan: single situations by name. Every situation, by random walks of facts, is in `walk`.

use fleet_store::{
    Audience, ConfigurationLevel, DeviceFacts, DeviceReport, NewRollout, Policy, Rate, Retries, Subject, Wave,
    WaveCount, Wish,
};
use protocol_types::{Consent, Digest, EndpointName, Phase, RolloutId, SecurityVersion, Standing};

use super::*;
use crate::rollouts::why::explain;

#[path = "plan_walk_tests.rs"]
mod walk;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn rollout(threshold: Threshold, max_in_flight: Option<u32>) -> RolloutRow {
    RolloutRow {
        id: RolloutId::new("r1").unwrap(),
        number: 1,
        wanted: NewRollout {
            name: String::new(),
            subject: Subject::Release("1.0.0".parse().unwrap()),
            audience: Audience::All,
            threshold,
            max_in_flight,
            window: None,
            consent: Consent::Automatic,
            on_failure: OnFailure::Stop,
            priority: 50,
            policy: Policy { closes_at_start: true, ..Policy::default() },
        },
        path: Some("releases/1.0.0.json".parse().unwrap()),
        digest: Digest::of(b"release"),
        state: RolloutState::Running,
        reason: None,
        created: NOW,
        started: Some(NOW),
        start_order: Some(1),
        started_by: Some("t1".to_owned()),
        approved_by: None,
        closed: false,
        wave: 0,
        excused: 0,
        brings_back: None,
        changed: NOW,
        revision: 1,
    }
}

fn device(name: &str) -> DeviceFacts {
    DeviceFacts {
        endpoint: EndpointName::new(name).unwrap(),
        at: None,
        present: Some((true, Standing::Active)),
        last_seen: Some(NOW),
        meant: true,
        wish: None,
        said: None,
        wave: None,
        matches: Vec::new(),
        attempt: 1,
        failed: 0,
        not_before: None,
        outranked_by: None,
        consented: false,
        failures: 0,
        zone: None,
    }
}

fn report(rollout: &RolloutRow, phase: Phase, code: Option<ReasonCode>) -> DeviceReport {
    DeviceReport {
        phase,
        reason: code.map(|code| Reason::new(code, "because")),
        progress: None,
        rollout: Some(rollout.id.clone()),
        attempt: 1,
        digest: Some(rollout.digest),
        running_version: None,
        running_digest: (phase == Phase::Succeeded).then_some(rollout.digest),
        slot: None,
        floor: SecurityVersion(0),
    }
}

/// A fleet in memory that carries decisions out as the store does.
struct Model {
    rollout: RolloutRow,
    devices: Vec<DeviceFacts>,
    offers: Vec<(UnixSeconds, u64)>,
    now: UnixSeconds,
}

impl Model {
    fn new(rollout: RolloutRow, devices: usize) -> Self {
        let devices = (0..devices).map(|n| device(&format!("d{n}"))).collect();
        Self { rollout, devices, offers: Vec::new(), now: NOW }
    }

    fn facts(&self) -> RolloutFacts {
        let mut waves: Vec<WaveCount> = Vec::new();
        for device in &self.devices {
            let Some((state, _)) = device.at else { continue };
            match waves.iter_mut().find(|count| (count.wave, count.state) == (device.wave, state)) {
                Some(count) => count.devices += 1,
                None => waves.push(WaveCount { wave: device.wave, state, devices: 1 }),
            }
        }
        let running = self.rollout.state == RolloutState::Running;
        let open = |d: &&DeviceFacts| match d.at {
            Some((DeviceState::Superseded, _)) => running && d.outranked_by.is_none(),
            Some((state, _)) => !state.is_end(),
            None => running && !self.rollout.closed && d.present.is_some(),
        };
        let offers = self.offers.iter().copied().filter(|(at, _)| at.0 + 3600 > self.now.0).collect();
        let devices = self.devices.iter().filter(open).cloned().collect();
        RolloutFacts { rollout: self.rollout.clone(), devices, waves, offers, retired_by: None, returnable: 0 }
    }

    fn decide(&self) -> Decision {
        decide(&self.facts(), self.now)
    }

    fn carry_out(&mut self, decision: &Decision) {
        let mut offered = 0;
        for step in &decision.devices {
            let device = self.devices.iter_mut().find(|d| d.endpoint == step.endpoint).expect("a device of the model");
            device.at = Some((step.to, step.waiting_for));
            (device.wave, device.attempt, device.failed) = (Some(step.wave), step.attempt, step.failed);
            device.not_before = step.not_before;
            match step.tally {
                Tally::Leave => {}
                Tally::Failure => device.failures += 1,
                Tally::Success => device.failures = 0,
            }
            let own = device.wish.as_ref().is_some_and(|wish| wish.rollout == self.rollout.id);
            device.wish = match step.wish {
                WishStep::Leave => continue,
                WishStep::Clear if !own => continue,
                WishStep::Clear => None,
                WishStep::Set => {
                    offered += 1;
                    Some(Wish { rollout: self.rollout.id.clone(), attempt: step.attempt, taken: false })
                }
            };
        }
        if offered > 0 {
            self.offers.push((self.now, offered));
        }
        if let Some((state, reason)) = &decision.rollout {
            (self.rollout.state, self.rollout.reason) = (*state, reason.clone());
        }
        self.rollout.wave = decision.wave.unwrap_or(self.rollout.wave);
        self.rollout.closed |= decision.closes;
    }

    /// An operator lets a paused rollout go on.
    fn resume(&mut self) {
        self.rollout.excused = self.count(&[DeviceState::Failed, DeviceState::RolledBack]) as u64;
        self.rollout.state = RolloutState::Running;
    }

    fn waiting(&self, what: WaitingFor) -> usize {
        self.devices.iter().filter(|d| d.at == Some((DeviceState::Waiting, Some(what)))).count()
    }

    fn step(&mut self) -> Decision {
        let decision = self.decide();
        self.carry_out(&decision);
        decision
    }

    fn acknowledge(&mut self, n: usize) {
        if let Some(wish) = &mut self.devices[n].wish {
            wish.taken = true;
        }
    }

    fn say(&mut self, n: usize, phase: Phase, code: Option<ReasonCode>) {
        let attempt = self.devices[n].attempt;
        self.devices[n].said = Some(DeviceReport { attempt, ..report(&self.rollout, phase, code) });
    }

    fn state(&self, n: usize) -> (DeviceState, Option<WaitingFor>) {
        self.devices[n].at.expect("the device is on the list")
    }

    fn count(&self, states: &[DeviceState]) -> usize {
        self.devices.iter().filter(|d| d.at.is_some_and(|(s, _)| states.contains(&s))).count()
    }
}

#[test]
fn a_device_goes_through_every_state_to_success_and_the_rollout_finishes() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.step();
    assert_eq!(model.state(0), (DeviceState::Queued, None), "the wish is set but not yet taken");
    model.acknowledge(0);
    let mut seen = Vec::new();
    for phase in [Phase::Idle, Phase::Downloading, Phase::Verifying, Phase::Installing, Phase::Trial, Phase::Succeeded]
    {
        model.say(0, phase, None);
        model.step();
        seen.push(model.state(0).0.as_str());
    }
    assert_eq!(seen, ["offered", "downloading", "verifying", "installing", "trial", "succeeded"]);
    assert_eq!(model.rollout.state, RolloutState::Finished);
}

#[test]
fn a_sleeping_device_is_not_offered_anything_and_takes_no_place() {
    let mut model = Model::new(rollout(Threshold::Count(1), Some(1)), 2);
    model.devices[0].present = Some((false, Standing::Active));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Asleep)));
    assert!(model.devices[0].wish.is_none());
    assert!(model.devices[1].wish.is_some(), "the other one has the only place");
    model.devices[0].present = Some((true, Standing::Active));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Quota)));
}

#[test]
fn a_wish_that_was_not_taken_before_the_device_fell_asleep_is_taken_back() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.step();
    model.devices[0].present = Some((false, Standing::Active));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Asleep)));
    assert!(model.devices[0].wish.is_none());
}

#[test]
fn the_threshold_stops_the_rollout_says_why_and_cancels_the_rest() {
    let mut model = Model::new(rollout(Threshold::Count(1), Some(1)), 3);
    model.step();
    model.acknowledge(0);
    model.say(0, Phase::RolledBack, Some(ReasonCode::ApplicationNotReady));
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Stopped);
    let reason = model.rollout.reason.clone().unwrap();
    assert_eq!(reason.code, ReasonCode::FailureThreshold);
    assert!(reason.text.contains("1 of 3") && reason.text.contains("application_not_ready"), "{reason}");
    assert_eq!(model.state(0).0, DeviceState::RolledBack);
    assert_eq!(model.count(&[DeviceState::Cancelled]), 2);
    assert!(model.devices.iter().all(|d| d.wish.is_none()));
}

#[test]
fn a_share_of_failed_devices_stops_the_rollout_once_it_is_reached() {
    let mut model = Model::new(rollout(Threshold::Percent(50), None), 4);
    model.step();
    model.say(0, Phase::Failed, Some(ReasonCode::BadSignature));
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Running);
    model.say(1, Phase::Failed, Some(ReasonCode::BadSignature));
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Stopped);
}

#[test]
fn lost_contact_is_no_failure_and_the_device_goes_on_by_itself() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.step();
    model.acknowledge(0);
    model.say(0, Phase::RolledBack, Some(ReasonCode::NoContact));
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Running);
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Asleep)));
    assert!(model.devices[0].wish.is_some(), "the wish stays for the next try");
    model.say(0, Phase::Succeeded, None);
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Finished);
}

#[test]
fn a_newer_rollout_takes_a_device_over_but_not_its_result() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 2);
    model.step();
    model.say(0, Phase::Succeeded, None);
    model.devices.iter_mut().for_each(|d| d.outranked_by = Some(RolloutId::new("r2").unwrap()));
    model.step();
    assert_eq!(model.state(0).0, DeviceState::Succeeded);
    assert_eq!(model.state(1).0, DeviceState::Superseded);
    assert_eq!(model.rollout.state, RolloutState::Finished, "no device is left, none has failed");
}

#[test]
fn an_abort_leaves_a_device_in_the_middle_of_its_switch_alone() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 2);
    model.step();
    model.say(0, Phase::Trial, None);
    model.say(1, Phase::Downloading, None);
    model.step();
    model.rollout.state = RolloutState::Aborted;
    model.step();
    assert_eq!(model.state(0).0, DeviceState::Trial);
    assert_eq!(model.state(1).0, DeviceState::Cancelled);
    model.say(0, Phase::Succeeded, None);
    model.step();
    assert_eq!(model.state(0).0, DeviceState::Succeeded);
}

#[test]
fn a_device_that_runs_the_release_is_skipped_and_one_that_fails_is_not_offered_it_again() {
    let mut model = Model::new(rollout(Threshold::Count(9), None), 2);
    model.say(0, Phase::Idle, None);
    let said = model.devices[0].said.as_mut().unwrap();
    (said.rollout, said.running_digest) = (None, Some(Digest::of(b"release")));
    model.step();
    assert_eq!(model.state(0).0, DeviceState::Skipped);
    model.say(1, Phase::Failed, Some(ReasonCode::WrongBoard));
    model.step();
    assert!(model.devices[1].wish.is_none());
    assert!(model.step().is_empty());
}

#[test]
fn a_paused_rollout_offers_nothing_but_listens() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 2);
    model.step();
    model.acknowledge(0);
    model.say(0, Phase::Downloading, None);
    model.rollout.state = RolloutState::Paused;
    model.step();
    assert_eq!(model.state(0).0, DeviceState::Downloading);
    assert!(model.devices[1].wish.is_none(), "what was not taken is taken back");
}

#[test]
fn a_device_is_offered_nothing_before_an_operator_said_yes_for_it() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 2);
    model.rollout.wanted.consent = Consent::Operator;
    model.step();
    for n in 0..2 {
        assert_eq!(model.state(n), (DeviceState::Waiting, Some(WaitingFor::Consent)));
    }
    model.devices[1].consented = true;
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Consent)));
    assert!(model.devices[0].wish.is_none());
    assert!(model.devices[1].wish.is_some());
}

#[test]
fn a_rollout_with_an_open_audience_goes_on_after_its_devices_and_ends_once_it_is_closed() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.rollout.wanted.policy.closes_at_start = false;
    model.devices[0].present = None;
    assert!(model.step().is_empty(), "nobody is there yet, and somebody may come");
    model.devices[0].present = Some((true, Standing::Active));
    model.step();
    model.say(0, Phase::Succeeded, None);
    model.step();
    assert_eq!((model.state(0).0, model.rollout.state), (DeviceState::Succeeded, RolloutState::Running));
    model.rollout.closed = true;
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Finished);
}

#[test]
fn the_next_wave_begins_when_so_many_of_the_one_before_have_succeeded() {
    let mut model = Model::new(rollout(Threshold::Count(9), None), 6);
    model.rollout.wanted.policy.waves = vec![Wave::Count(2)];
    model.rollout.wanted.policy.success_percent = Some(50);
    model.step();
    let first: Vec<usize> = (0..6).filter(|n| model.devices[*n].wish.is_some()).collect();
    assert_eq!((first.len(), model.waiting(WaitingFor::Wave)), (2, 4));
    model.say(first[0], Phase::Failed, Some(ReasonCode::BootFailed));
    assert_eq!(model.step().wave, None);
    model.say(first[1], Phase::Succeeded, None);
    assert_eq!(model.step().wave, Some(1));
    assert_eq!(model.devices.iter().filter(|d| d.wish.is_some()).count(), 5, "all but the one that failed");
}

#[test]
fn a_wave_that_misses_its_share_pauses_the_rollout_until_an_operator_lets_it_go_on() {
    let mut model = Model::new(rollout(Threshold::Count(9), None), 4);
    model.rollout.wanted.on_failure = OnFailure::Pause;
    model.rollout.wanted.policy.waves = vec![Wave::Percent(25)];
    model.rollout.wanted.policy.success_percent = Some(100);
    model.step();
    let first = (0..4).find(|n| model.devices[*n].wish.is_some()).unwrap();
    model.say(first, Phase::RolledBack, Some(ReasonCode::BootFailed));
    model.step();
    let reason = model.rollout.reason.clone().unwrap();
    assert_eq!((model.rollout.state, reason.code), (RolloutState::Paused, ReasonCode::SuccessThreshold), "{reason}");
    assert!(model.step().is_empty(), "it waits");
    model.resume();
    model.step();
    assert_eq!((model.rollout.state, model.rollout.wave), (RolloutState::Running, 1));
}

#[test]
fn a_wave_waits_for_devices_that_were_heard_lately_and_for_no_others() {
    let mut model = Model::new(rollout(Threshold::Count(9), None), 4);
    model.rollout.wanted.policy.waves = vec![Wave::Count(2)];
    model.step();
    let first: Vec<usize> = (0..4).filter(|n| model.devices[*n].wish.is_some()).collect();
    model.say(first[0], Phase::Succeeded, None);
    // As all do when the service was restarted.
    model.devices.iter_mut().for_each(|d| d.present = Some((false, Standing::Active)));
    assert_eq!(model.step().wave, None);
    model.now = UnixSeconds(NOW.0 + 24 * 60 * 60);
    assert_eq!(model.step().wave, Some(1));
}

#[test]
fn the_share_of_failed_devices_counts_in_the_waves_that_are_open() {
    let mut model = Model::new(rollout(Threshold::Percent(50), None), 10);
    model.rollout.wanted.policy.waves = vec![Wave::Count(2)];
    model.step();
    let first = (0..10).find(|n| model.devices[*n].wish.is_some()).unwrap();
    model.say(first, Phase::Failed, Some(ReasonCode::BootFailed));
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Stopped, "one of two, not one of ten");
}

#[test]
fn a_device_that_failed_is_tried_again_later_and_then_no_more() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.rollout.wanted.policy.retries = Retries { most: 1, first_delay_s: 100 };
    model.step();
    model.acknowledge(0);
    model.say(0, Phase::Failed, Some(ReasonCode::NoRoom));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Retry)));
    assert!(model.step().is_empty(), "what it said counts once");
    let next = model.devices[0].not_before.unwrap();
    assert!((NOW.0 + 100..=NOW.0 + 110).contains(&next.0));
    model.now = next;
    model.step();
    let attempt = |model: &Model| model.devices[0].wish.as_ref().map(|wish| wish.attempt);
    assert_eq!((attempt(&model), model.state(0).0), (Some(2), DeviceState::Queued));
    model.acknowledge(0);
    model.say(0, Phase::Failed, Some(ReasonCode::NoRoom));
    model.step();
    assert_eq!((model.state(0).0, model.rollout.state), (DeviceState::Failed, RolloutState::Stopped));
}

#[test]
fn a_device_that_keeps_failing_is_held_back_until_it_is_forgiven() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.devices[0].failures = 5;
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Failures)));
    model.devices[0].failures = 0;
    model.step();
    assert!(model.devices[0].wish.is_some());
}

#[test]
fn a_device_comes_back_from_a_rollout_that_ranks_higher_and_is_then_tried_anew() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.step();
    model.acknowledge(0);
    model.devices[0].outranked_by = Some(RolloutId::new("r2").unwrap());
    model.rollout.wanted.policy.closes_at_start = false;
    model.rollout.closed = false;
    model.step();
    model.say(0, Phase::Failed, Some(ReasonCode::Superseded));
    assert_eq!(model.state(0).0, DeviceState::Superseded);
    model.devices[0].outranked_by = None;
    model.step();
    let wish = model.devices[0].wish.clone().unwrap();
    assert_eq!(
        (model.state(0).0, wish.attempt),
        (DeviceState::Queued, 2),
        "the device would not begin the old try again"
    );
}

#[test]
fn nothing_is_offered_before_the_time_or_before_a_second_person_said_yes() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.rollout.wanted.policy.approval = true;
    model.rollout.wanted.policy.not_before = Some(UnixSeconds(NOW.0 + 60));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Approval)));
    model.rollout.approved_by = Some("t2".to_owned());
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Schedule)));
    model.now = UnixSeconds(NOW.0 + 60);
    model.step();
    assert!(model.devices[0].wish.is_some());
}

#[test]
fn a_device_waits_for_the_hours_of_its_own_place() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 2);
    // The facts are from 2027-01-15 at 08:00 UTC, 17:00 in Tokyo.
    let hours = fleet_store::DailyWindow { from: 17 * 60, until: 18 * 60, zone: fleet_store::Zone::Device };
    model.rollout.wanted.window = Some(hours);
    model.devices[1].zone = Some("Asia/Tokyo".to_owned());
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Window)));
    assert!(model.devices[1].wish.is_some());
}

#[test]
fn a_device_whose_zone_is_none_waits_for_the_hours_of_utc_and_is_told_so() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    let hours = fleet_store::DailyWindow { from: 17 * 60, until: 18 * 60, zone: fleet_store::Zone::Device };
    model.rollout.wanted.window = Some(hours);
    model.devices[0].zone = Some("Asia/Tokio".to_owned());
    model.step();
    let why = explain(&model.facts(), model.now).remove(0);
    assert_eq!(why.rule, "window");
    let zone = ("device_zone", "UTC, as `Asia/Tokio` names no time zone".to_owned());
    assert!(why.evidence.contains(&zone), "{why:?}");
}

#[test]
fn a_rate_lets_one_device_after_the_other_have_its_turn() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 3);
    model.rollout.wanted.policy.rate = Some(Rate { per_hour: 60, growth: None });
    model.step();
    assert_eq!(model.waiting(WaitingFor::Rate), 2);
    model.now = UnixSeconds(NOW.0 + 60);
    model.step();
    assert_eq!(model.waiting(WaitingFor::Rate), 1);
}

/// The rollout of a document of the account to all its devices.
fn of_configuration(threshold: Threshold) -> RolloutRow {
    let mut rollout = rollout(threshold, None);
    rollout.wanted.subject = Subject::Configuration { level: ConfigurationLevel::Account, revision: 2 };
    (rollout.path, rollout.wanted.policy.closes_at_start) = (None, false);
    rollout
}

#[test]
fn settings_that_cut_contact_are_a_failure_and_not_tried_again_by_the_device_itself() {
    let mut model = Model::new(of_configuration(Threshold::Count(1)), 2);
    model.rollout.wanted.policy.waves = vec![Wave::Count(1)];
    model.step();
    let first = (0..2).find(|n| model.devices[*n].wish.is_some()).unwrap();
    model.acknowledge(first);
    model.say(first, Phase::RolledBack, Some(ReasonCode::NoContact));
    model.step();
    assert_eq!(model.state(first).0, DeviceState::RolledBack);
    assert_eq!(model.rollout.state, RolloutState::Stopped);
    assert_eq!(model.state(1 - first).0, DeviceState::Cancelled);
    assert!(model.devices.iter().all(|d| d.wish.is_none()));
}

#[test]
fn a_document_for_all_comes_into_force_once_nobody_who_can_be_reached_is_left() {
    let mut model = Model::new(of_configuration(Threshold::Count(1)), 3);
    (model.devices[1].present, model.devices[1].last_seen) = (Some((false, Standing::Active)), None);
    model.devices[2].present = Some((true, Standing::Quarantined));
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Running, "nothing has shown yet that it is good");
    model.acknowledge(0);
    model.say(0, Phase::Succeeded, None);
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Finished);
    assert_eq!([model.state(1).0, model.state(2).0], [DeviceState::Cancelled; 2]);
    let mut nobody = Model::new(of_configuration(Threshold::Count(1)), 0);
    nobody.step();
    assert_eq!(nobody.rollout.state, RolloutState::Finished, "who joins later has it from the start");
}

#[test]
fn a_document_with_which_no_device_succeeded_does_not_come_into_force() {
    let mut model = Model::new(of_configuration(Threshold::Count(9)), 2);
    model.step();
    for n in 0..2 {
        model.acknowledge(n);
        model.say(n, Phase::RolledBack, Some(ReasonCode::NoContact));
    }
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Stopped);
    assert_eq!(model.rollout.reason.as_ref().unwrap().code, ReasonCode::SuccessThreshold);
    assert!(model.step().is_empty());
}

#[test]
fn a_document_for_a_part_of_its_devices_stays_a_rollout_until_its_audience_is_closed() {
    let mut row = of_configuration(Threshold::Count(1));
    row.wanted.audience = Audience::Filter("tag = \"lab\"".parse().unwrap());
    let mut model = Model::new(row, 1);
    model.step();
    model.acknowledge(0);
    model.say(0, Phase::Succeeded, None);
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Running);
    model.rollout.closed = true;
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Finished);
}

#[test]
fn a_device_that_left_the_group_of_the_document_is_cancelled() {
    let mut model = Model::new(of_configuration(Threshold::Count(1)), 2);
    model.step();
    model.devices[1].meant = false;
    model.step();
    assert_eq!(model.state(1).0, DeviceState::Cancelled);
    assert!(model.devices[1].wish.is_none());
    assert_eq!(model.rollout.state, RolloutState::Running);
}

fn asking(deadline: Option<UnixSeconds>) -> RolloutRow {
    let mut row = rollout(Threshold::Count(1), None);
    row.wanted.consent = Consent::Device;
    (row.wanted.policy.consent_deadline, row.wanted.policy.ask_again_s) = (deadline, 600);
    row
}

#[test]
fn a_device_that_asks_somebody_waits_as_long_as_that_takes_and_keeps_no_other() {
    let mut row = asking(None);
    row.wanted.max_in_flight = Some(1);
    let mut model = Model::new(row, 2);
    model.step();
    model.acknowledge(0);
    model.say(0, Phase::Verifying, Some(ReasonCode::ConsentNeeded));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Consent)));
    assert!(model.devices[1].wish.is_some(), "the place is free again");
    // Neither a device that goes away nor a pause takes the question back.
    model.devices[0].present = Some((false, Standing::Active));
    model.rollout.state = RolloutState::Paused;
    model.step();
    model.rollout.state = RolloutState::Running;
    model.step();
    assert!(model.devices[0].wish.is_some());
    model.devices[0].present = Some((true, Standing::Active));
    for (phase, state) in [(Phase::Installing, DeviceState::Installing), (Phase::Succeeded, DeviceState::Succeeded)] {
        model.say(0, phase, None);
        model.step();
        assert_eq!(model.state(0).0, state);
    }
}

#[test]
fn a_no_at_the_device_is_no_failure_and_it_is_asked_again_later_or_when_somebody_wants_that() {
    let mut model = Model::new(asking(None), 1);
    let refuse = |model: &mut Model| {
        model.acknowledge(0);
        model.say(0, Phase::Failed, Some(ReasonCode::ConsentRefused));
        let decision = model.step();
        let step = &decision.devices[0];
        assert_eq!((step.tally, step.failed, step.wish), (Tally::Leave, 0, WishStep::Clear));
        assert_eq!(step.reason.as_ref().map(|reason| reason.code), Some(ReasonCode::ConsentRefused));
        assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Consent)));
        assert_eq!(model.rollout.state, RolloutState::Running);
    };
    model.step();
    refuse(&mut model);
    let why = explain(&model.facts(), model.now).remove(0);
    assert_eq!((why.rule, why.next), ("consent", Some(UnixSeconds(NOW.0 + 600))));
    assert!(why.text.contains("said no"), "{why:?}");
    model.now = UnixSeconds(NOW.0 + 599);
    assert!(model.step().is_empty());
    model.now = UnixSeconds(NOW.0 + 600);
    model.step();
    assert_eq!(model.devices[0].wish.as_ref().map(|wish| wish.attempt), Some(2));
    refuse(&mut model);
    // What the store does when an operator wants it to ask again.
    model.devices[0].not_before = None;
    model.step();
    assert_eq!(model.devices[0].wish.as_ref().map(|wish| wish.attempt), Some(3));
}

#[test]
fn a_no_does_not_hold_beyond_the_deadline() {
    let deadline = UnixSeconds(NOW.0 + 60);
    let mut model = Model::new(asking(Some(deadline)), 1);
    model.step();
    model.say(0, Phase::Failed, Some(ReasonCode::ConsentRefused));
    model.step();
    assert_eq!(model.devices[0].not_before, Some(deadline));
    model.now = deadline;
    model.step();
    assert!(model.devices[0].wish.is_some());
}

#[test]
fn waves_go_on_without_those_that_nobody_answers_once_one_device_succeeded() {
    let mut row = asking(None);
    row.wanted.policy.waves = vec![Wave::Count(2)];
    let mut model = Model::new(row, 3);
    model.step();
    let first: Vec<usize> = (0..3).filter(|n| model.devices[*n].wish.is_some()).collect();
    assert_eq!(first.len(), 2);
    for n in &first {
        model.acknowledge(*n);
        model.say(*n, Phase::Verifying, Some(ReasonCode::ConsentNeeded));
    }
    model.step();
    assert_eq!(model.rollout.wave, 0, "nobody has tried it yet");
    model.say(first[0], Phase::Succeeded, None);
    model.step();
    assert_eq!(model.rollout.wave, 1);
}

#[test]
fn only_a_rollout_that_asks_at_devices_takes_their_no_for_an_answer() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.step();
    model.say(0, Phase::Failed, Some(ReasonCode::ConsentRefused));
    model.step();
    assert_eq!(model.state(0).0, DeviceState::Failed);
}
