//! Claims about the plan: single situations by name, and every situation by random walks of facts.

use fleet_store::{Audience, Counts, DesiredRelease, DesiredRow, NewRollout};
use proptest::prelude::*;
use protocol_types::{Digest, EndpointName, RolloutId, SecurityVersion};

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn rollout(threshold: Threshold, max_in_flight: Option<u32>) -> RolloutRow {
    RolloutRow {
        id: RolloutId::new("r1").unwrap(),
        number: 1,
        wanted: NewRollout {
            name: String::new(),
            release: "1.0.0".parse().unwrap(),
            audience: Audience::All,
            threshold,
            max_in_flight,
            window: None,
            consent: Consent::Automatic,
        },
        path: "releases/1.0.0.json".parse().unwrap(),
        digest: Digest::of(b"release"),
        state: RolloutState::Running,
        reason: None,
        created: NOW,
        started: Some(NOW),
        start_order: Some(1),
        changed: NOW,
        revision: 1,
    }
}

fn device(name: &str) -> DeviceFacts {
    DeviceFacts {
        endpoint: EndpointName::new(name).unwrap(),
        at: None,
        present: Some((true, Standing::Active)),
        wish: None,
        said: None,
        newer: false,
        consented: false,
    }
}

fn report(rollout: &RolloutRow, phase: Phase, code: Option<ReasonCode>) -> DeviceReport {
    DeviceReport {
        phase,
        reason: code.map(|code| Reason::new(code, "because")),
        progress: None,
        rollout: Some(rollout.id.clone()),
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
    devices: Vec<(DeviceFacts, u64)>,
}

impl Model {
    fn new(rollout: RolloutRow, devices: usize) -> Self {
        let devices = (0..devices).map(|n| (device(&format!("d{n}")), 0)).collect();
        Self { rollout, devices }
    }

    fn facts(&self) -> RolloutFacts {
        let mut counts = Counts::default();
        for state in DeviceState::ALL {
            let n = self.devices.iter().filter(|(d, _)| d.at.is_some_and(|(s, _)| s == *state)).count();
            if n > 0 {
                counts.0.push((*state, n as u64));
            }
        }
        let running = self.rollout.state == RolloutState::Running;
        let open = |d: &&DeviceFacts| match d.at {
            Some((state, _)) => !state.is_end(),
            None => running && d.present.is_some(),
        };
        let devices = self.devices.iter().map(|(d, _)| d).filter(open).cloned().collect();
        RolloutFacts { rollout: self.rollout.clone(), devices, counts }
    }

    fn decide(&self) -> Decision {
        decide(&self.facts(), NOW)
    }

    fn carry_out(&mut self, decision: &Decision) {
        for step in &decision.devices {
            let (device, generation) =
                self.devices.iter_mut().find(|(d, _)| d.endpoint == step.endpoint).expect("a device of the model");
            device.at = Some((step.to, step.waiting_for));
            let own =
                device.wish.as_ref().and_then(|w| w.release.as_ref()).is_some_and(|r| r.rollout == self.rollout.id);
            let release = match step.wish {
                WishStep::Leave => continue,
                WishStep::Clear if !own => continue,
                WishStep::Clear => None,
                WishStep::Set => Some(DesiredRelease {
                    path: self.rollout.path.clone(),
                    digest: self.rollout.digest,
                    rollout: self.rollout.id.clone(),
                }),
            };
            *generation += 1;
            let acknowledged = device.wish.as_ref().map_or(0, |w| w.acknowledged);
            device.wish = Some(DesiredRow { generation: *generation, acknowledged, release, changed: NOW });
        }
        if let Some((state, reason)) = &decision.rollout {
            (self.rollout.state, self.rollout.reason) = (*state, reason.clone());
        }
    }

    fn step(&mut self) -> Decision {
        let decision = self.decide();
        self.carry_out(&decision);
        decision
    }

    fn acknowledge(&mut self, n: usize) {
        if let Some(wish) = &mut self.devices[n].0.wish {
            wish.acknowledged = wish.generation;
        }
    }

    fn say(&mut self, n: usize, phase: Phase, code: Option<ReasonCode>) {
        self.devices[n].0.said = Some(report(&self.rollout, phase, code));
    }

    fn state(&self, n: usize) -> (DeviceState, Option<WaitingFor>) {
        self.devices[n].0.at.expect("the device is on the list")
    }

    fn count(&self, states: &[DeviceState]) -> usize {
        self.devices.iter().filter(|(d, _)| d.at.is_some_and(|(s, _)| states.contains(&s))).count()
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
    model.devices[0].0.present = Some((false, Standing::Active));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Asleep)));
    assert!(model.devices[0].0.wish.is_none());
    assert!(model.devices[1].0.wish.is_some(), "the other one has the only place");
    model.devices[0].0.present = Some((true, Standing::Active));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Quota)));
}

#[test]
fn a_wish_that_was_not_taken_before_the_device_fell_asleep_is_taken_back() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 1);
    model.step();
    model.devices[0].0.present = Some((false, Standing::Active));
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Asleep)));
    assert!(model.devices[0].0.wish.as_ref().unwrap().release.is_none());
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
    assert!(model.devices.iter().all(|(d, _)| d.wish.as_ref().is_none_or(|w| w.release.is_none())));
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
    assert!(model.devices[0].0.wish.as_ref().unwrap().release.is_some(), "the wish stays for the next try");
    model.say(0, Phase::Succeeded, None);
    model.step();
    assert_eq!(model.rollout.state, RolloutState::Finished);
}

#[test]
fn a_newer_rollout_takes_a_device_over_but_not_its_result() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 2);
    model.step();
    model.say(0, Phase::Succeeded, None);
    model.devices.iter_mut().for_each(|(d, _)| d.newer = true);
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
    let said = model.devices[0].0.said.as_mut().unwrap();
    (said.rollout, said.running_digest) = (None, Some(Digest::of(b"release")));
    model.step();
    assert_eq!(model.state(0).0, DeviceState::Skipped);
    model.say(1, Phase::Failed, Some(ReasonCode::WrongBoard));
    model.step();
    assert!(model.devices[1].0.wish.as_ref().unwrap().release.is_none());
    assert!(model.step().is_empty());
}

#[test]
fn a_window_over_midnight_is_open_on_both_sides_of_it() {
    let window = DailyWindow { from: 22 * 60, until: 5 * 60 };
    let at = |hour: u64, minute: u64| UnixSeconds(1_800_000_000 / 86_400 * 86_400 + hour * 3600 + minute * 60);
    for (hour, minute, open) in
        [(21, 59, false), (22, 0, true), (23, 59, true), (0, 0, true), (4, 59, true), (5, 0, false)]
    {
        assert_eq!(is_open(window, at(hour, minute)), open, "{hour}:{minute}");
    }
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
    assert!(model.devices[1].0.wish.as_ref().unwrap().release.is_none(), "what was not taken is taken back");
}

#[test]
fn a_device_is_offered_nothing_before_an_operator_said_yes_for_it() {
    let mut model = Model::new(rollout(Threshold::Count(1), None), 2);
    model.rollout.wanted.consent = Consent::Operator;
    model.step();
    for n in 0..2 {
        assert_eq!(model.state(n), (DeviceState::Waiting, Some(WaitingFor::Consent)));
    }
    model.devices[1].0.consented = true;
    model.step();
    assert_eq!(model.state(0), (DeviceState::Waiting, Some(WaitingFor::Consent)));
    assert!(model.devices[0].0.wish.is_none());
    assert!(model.devices[1].0.wish.as_ref().unwrap().release.is_some());
}

/// One thing that happens in the world.
#[derive(Clone, Debug)]
enum Fact {
    Connect(usize, bool),
    Stand(usize, Standing),
    Acknowledge(usize),
    Say(usize, usize, Option<ReasonCode>),
    Newer(usize),
    Consent(usize),
    Delete(usize),
    Rollout(RolloutState),
}

const DEVICES: usize = 6;

fn fact() -> impl Strategy<Value = Fact> {
    let one = 0..DEVICES;
    let standing = prop_oneof![Just(Standing::Active), Just(Standing::Suspended), Just(Standing::Quarantined)];
    let code = prop_oneof![
        Just(None),
        Just(Some(ReasonCode::NoContact)),
        Just(Some(ReasonCode::Superseded)),
        Just(Some(ReasonCode::BootFailed)),
    ];
    let asked = prop_oneof![Just(RolloutState::Running), Just(RolloutState::Paused), Just(RolloutState::Aborted)];
    prop_oneof![
        6 => (one.clone(), any::<bool>()).prop_map(|(n, on)| Fact::Connect(n, on)),
        2 => (one.clone(), standing).prop_map(|(n, standing)| Fact::Stand(n, standing)),
        6 => one.clone().prop_map(Fact::Acknowledge),
        12 => (one.clone(), 0..Phase::ALL.len(), code).prop_map(|(n, phase, code)| Fact::Say(n, phase, code)),
        1 => one.clone().prop_map(Fact::Newer),
        3 => one.clone().prop_map(Fact::Consent),
        1 => one.prop_map(Fact::Delete),
        1 => asked.prop_map(Fact::Rollout),
    ]
}

impl Model {
    fn happen(&mut self, fact: &Fact) {
        match *fact {
            Fact::Connect(n, on) => {
                if let Some((connected, _)) = &mut self.devices[n].0.present {
                    *connected = on;
                }
            }
            Fact::Stand(n, to) => {
                if let Some((_, standing)) = &mut self.devices[n].0.present {
                    *standing = to;
                }
            }
            Fact::Acknowledge(n) => self.acknowledge(n),
            Fact::Say(n, phase, code) => self.say(n, Phase::ALL[phase], code),
            Fact::Newer(n) => self.devices[n].0.newer = true,
            Fact::Consent(n) => self.devices[n].0.consented = true,
            Fact::Delete(n) => self.devices[n].0.present = None,
            Fact::Rollout(to) => {
                if !self.rollout.state.is_end() {
                    self.rollout.state = to;
                }
            }
        }
    }
}

/// Whether the product page of states allows the edge.
fn is_allowed(from: DeviceState, to: DeviceState) -> bool {
    if from.is_end() {
        return false;
    }
    // Once a device has the wish it never goes back to the queue, except to wait after lost contact.
    !(from.is_under_way() && matches!(to, DeviceState::Queued | DeviceState::Offered | DeviceState::Skipped))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_facts_breaks_a_rule(
        facts in prop::collection::vec(fact(), 1..60),
        most in prop::option::of(1_u32..4),
        threshold in prop_oneof![(1_u32..4).prop_map(Threshold::Count), (1_u8..=100).prop_map(Threshold::Percent)],
        consent in prop_oneof![Just(Consent::Automatic), Just(Consent::Operator)],
    ) {
        let mut model = Model::new(rollout(threshold, most), DEVICES);
        model.rollout.wanted.consent = consent;
        for fact in facts {
            model.happen(&fact);
            let before = model.facts();
            let decision = model.decide();
            // A restart at any point decides the same again, for nothing but facts goes in.
            prop_assert_eq!(&decision, &model.decide());
            for step in &decision.devices {
                let was = before.devices.iter().find(|d| d.endpoint == step.endpoint).expect("only open devices move").at;
                if let Some((from, _)) = was {
                    prop_assert!(is_allowed(from, step.to), "{} from {from} to {} after {fact:?}", step.endpoint, step.to);
                }
                prop_assert_eq!(step.to == DeviceState::Waiting, step.waiting_for.is_some());
            }
            for step in decision.devices.iter().filter(|step| step.wish == WishStep::Set) {
                let asked = before.devices.iter().find(|d| d.endpoint == step.endpoint).expect("only open devices move");
                prop_assert!(consent == Consent::Automatic || asked.consented, "{} never agreed", step.endpoint);
            }
            let offered = decision.devices.iter().filter(|step| step.wish == WishStep::Set).count();
            if model.rollout.state != RolloutState::Running {
                prop_assert_eq!(offered, 0, "only a running rollout offers");
            }
            model.carry_out(&decision);
            prop_assert!(model.decide().is_empty(), "deciding again decides nothing new: {:?}", model.decide());

            let failed = model.count(&[DeviceState::Failed, DeviceState::RolledBack]);
            if let Threshold::Count(limit) = threshold && model.rollout.state == RolloutState::Running {
                prop_assert!(failed < limit as usize, "{failed} failed and it still runs");
            }
            if let Some(most) = most && offered > 0 {
                let rollout = &model.rollout;
                let facts = model.facts();
                let busy = facts.devices.iter().map(Place::new).filter(|p| is_busy(rollout, p)).count();
                prop_assert!(busy <= most as usize, "{busy} under way, at most {most} may be");
            }
            if matches!(model.rollout.state, RolloutState::Stopped | RolloutState::Aborted) {
                let open = model.facts().devices;
                let switching = |d: &DeviceFacts| matches!(d.at, Some((DeviceState::Installing | DeviceState::Trial, _)));
                prop_assert!(open.iter().all(switching), "a rollout that ended leaves only switching devices: {open:?}");
            }
        }
    }
}
