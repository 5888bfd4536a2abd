//! Random walks of facts: what must hold after each step of a rollout, whatever happens in whatever order.

use fleet_store::Growth;
use proptest::prelude::*;

use super::*;

/// One thing that happens in the world.
#[derive(Clone, Debug)]
enum Fact {
    Connect(usize, bool),
    Stand(usize, Standing),
    Acknowledge(usize),
    Say(usize, usize, Option<ReasonCode>),
    Outrank(usize, bool),
    Consent(usize),
    Delete(usize),
    Forgive(usize),
    Rollout(RolloutState),
    Close,
    Pass(u64),
}

const DEVICES: usize = 6;
const FAILED_STATES: &[DeviceState] = &[DeviceState::Failed, DeviceState::RolledBack];

fn fact() -> impl Strategy<Value = Fact> {
    let one = 0..DEVICES;
    let standing = prop_oneof![Just(Standing::Active), Just(Standing::Suspended), Just(Standing::Quarantined)];
    let code = prop_oneof![
        Just(None),
        Just(Some(ReasonCode::NoContact)),
        Just(Some(ReasonCode::Superseded)),
        Just(Some(ReasonCode::BootFailed)),
        Just(Some(ReasonCode::ConsentNeeded)),
        Just(Some(ReasonCode::ConsentRefused)),
    ];
    let asked = prop_oneof![Just(RolloutState::Running), Just(RolloutState::Paused), Just(RolloutState::Aborted)];
    prop_oneof![
        6 => (one.clone(), any::<bool>()).prop_map(|(n, on)| Fact::Connect(n, on)),
        2 => (one.clone(), standing).prop_map(|(n, standing)| Fact::Stand(n, standing)),
        6 => one.clone().prop_map(Fact::Acknowledge),
        12 => (one.clone(), 0..Phase::ALL.len(), code).prop_map(|(n, phase, code)| Fact::Say(n, phase, code)),
        2 => (one.clone(), any::<bool>()).prop_map(|(n, is)| Fact::Outrank(n, is)),
        3 => one.clone().prop_map(Fact::Consent),
        1 => one.clone().prop_map(Fact::Forgive),
        1 => one.prop_map(Fact::Delete),
        2 => asked.prop_map(Fact::Rollout),
        1 => Just(Fact::Close),
        6 => (1_u64..5000).prop_map(Fact::Pass),
    ]
}

/// Everything that can be asked of a rollout.
fn wanted() -> impl Strategy<Value = RolloutRow> {
    let wave = prop_oneof![(1_u32..4).prop_map(Wave::Count), (1_u8..=100).prop_map(Wave::Percent)];
    let growth = (1_u16..300, 1_u32..4, 1_u32..100);
    let growth = growth.prop_map(|(percent, every, max_per_hour)| Growth { percent, every, max_per_hour });
    let rate = (1_u32..50, prop::option::of(growth)).prop_map(|(per_hour, growth)| Rate { per_hour, growth });
    (
        prop_oneof![(1_u32..4).prop_map(Threshold::Count), (1_u8..=100).prop_map(Threshold::Percent)],
        prop::option::of(1_u32..4),
        prop_oneof![Just(Consent::Automatic), Just(Consent::Operator), Just(Consent::Device)],
        prop_oneof![Just(OnFailure::Stop), Just(OnFailure::Pause), Just(OnFailure::Return)],
        prop::collection::vec(wave, 0..4),
        prop::option::of(1_u8..=100),
        prop::option::of(rate),
        (0_u8..3, 0_u32..2000, 0_u32..4, any::<bool>()),
    )
        .prop_map(
            |(
                threshold,
                most,
                consent,
                on_failure,
                waves,
                success_percent,
                rate,
                (again, delay, hold_after, closes),
            )| {
                let mut row = rollout(threshold, most);
                (row.wanted.consent, row.wanted.on_failure) = (consent, on_failure);
                let retries = Retries { most: again, first_delay_s: delay };
                row.wanted.policy = Policy {
                    waves,
                    success_percent,
                    rate,
                    retries,
                    hold_after,
                    closes_at_start: closes,
                    ..Policy::default()
                };
                row
            },
        )
}

impl Model {
    fn happen(&mut self, fact: &Fact) {
        match *fact {
            Fact::Connect(n, on) => {
                if let Some((connected, _)) = &mut self.devices[n].present {
                    *connected = on;
                }
            }
            Fact::Stand(n, to) => {
                if let Some((_, standing)) = &mut self.devices[n].present {
                    *standing = to;
                }
            }
            Fact::Acknowledge(n) => self.acknowledge(n),
            Fact::Say(n, phase, code) => self.say(n, Phase::ALL[phase], code),
            Fact::Outrank(n, is) => self.devices[n].outranked_by = is.then(|| RolloutId::new("r2").unwrap()),
            Fact::Consent(n) => self.devices[n].consented = true,
            Fact::Delete(n) => self.devices[n].present = None,
            Fact::Forgive(n) => self.devices[n].failures = 0,
            Fact::Rollout(RolloutState::Running) if self.rollout.state == RolloutState::Paused => self.resume(),
            Fact::Rollout(to) => {
                if !self.rollout.state.is_end() {
                    self.rollout.state = to;
                }
            }
            Fact::Close => self.rollout.closed = true,
            Fact::Pass(seconds) => self.now = UnixSeconds(self.now.0 + seconds),
        }
    }

    /// Everything works from now on, and everybody says yes.
    fn heal(&mut self) {
        self.rollout.closed = true;
        if self.rollout.state == RolloutState::Paused {
            self.resume();
        }
        for device in &mut self.devices {
            device.present = device.present.map(|_| (true, Standing::Active));
            (device.outranked_by, device.consented, device.failures) = (None, true, 0);
        }
    }
}

fn check_steps(model: &Model, before: &RolloutFacts, decision: &Decision) -> Result<(), TestCaseError> {
    let wave = decision.wave.unwrap_or(before.rollout.wave);
    for step in &decision.devices {
        let was = before.devices.iter().find(|d| d.endpoint == step.endpoint).expect("only devices of the facts move");
        if let Some((from, _)) = was.at {
            prop_assert!(!from.is_end() || from == DeviceState::Superseded, "{} left {from}", step.endpoint);
        }
        prop_assert_eq!(step.to == DeviceState::Waiting, step.waiting_for.is_some());
        prop_assert!(step.attempt >= was.attempt && step.failed >= was.failed);
        prop_assert!(step.failed <= u32::from(model.rollout.wanted.policy.retries.most) + 1, "one try too many");
        if step.wish == WishStep::Set {
            let policy = &model.rollout.wanted.policy;
            prop_assert!(model.rollout.wanted.consent != Consent::Operator || was.consented, "it never agreed");
            prop_assert!(step.wave <= wave, "wave {} was offered something in wave {wave}", step.wave);
            prop_assert!(
                policy.hold_after == 0 || was.failures + u32::from(step.tally == Tally::Failure) < policy.hold_after,
                "it was to be held back"
            );
            prop_assert!(was.present == Some((true, Standing::Active)) && was.outranked_by.is_none());
            prop_assert!(step.not_before.is_none_or(|moment| moment <= model.now), "it was tried too early");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_facts_breaks_a_rule_and_none_leaves_the_rollout_stuck(
        row in wanted(), facts in prop::collection::vec(fact(), 1..80)
    ) {
        let mut model = Model::new(row, DEVICES);
        for fact in facts {
            model.happen(&fact);
            let before = model.facts();
            let decision = model.decide();
            // A restart at any point decides the same again, for nothing but facts goes in.
            prop_assert_eq!(&decision, &model.decide());
            check_steps(&model, &before, &decision)?;
            let offered = decision.devices.iter().filter(|step| step.wish == WishStep::Set).count();
            model.carry_out(&decision);
            if model.rollout.state != RolloutState::Running {
                prop_assert_eq!(offered, 0, "only a running rollout offers");
            }
            prop_assert!(model.decide().is_empty(), "deciding again decides nothing new: {:?}", model.decide());

            let failed = model.count(FAILED_STATES) as u64 - model.rollout.excused;
            if let Threshold::Count(limit) = model.rollout.wanted.threshold && model.rollout.state == RolloutState::Running {
                prop_assert!(failed < u64::from(limit), "{failed} failed and it still runs");
            }
            if let Some(most) = model.rollout.wanted.max_in_flight && offered > 0 {
                let facts = model.facts();
                let busy = facts.devices.iter().map(Place::new).filter(|p| p.is_busy(&model.rollout)).count();
                prop_assert!(busy <= most as usize, "{busy} under way, at most {most} may be");
            }
            if let Some(rate) = model.rollout.wanted.policy.rate {
                let hour: u64 = model.facts().offers.iter().map(|(_, devices)| devices).sum();
                let most = rate.growth.map_or(rate.per_hour, |growth| growth.max_per_hour.max(rate.per_hour));
                prop_assert!(hour <= u64::from(most), "{hour} offers in an hour");
            }
            if matches!(model.rollout.state, RolloutState::Stopped | RolloutState::Aborted) {
                let open = model.facts().devices;
                let switching = |d: &DeviceFacts| matches!(d.at, Some((DeviceState::Installing | DeviceState::Trial, _)));
                prop_assert!(open.iter().all(switching), "a rollout that ended leaves only switching devices: {open:?}");
            }
        }
        // Once nothing is in the way any more, the rollout comes to an end.
        for _ in 0..400 {
            model.heal();
            model.step();
            if model.rollout.state.is_end() {
                break;
            }
            for n in 0..DEVICES {
                let wanted = model.devices[n].wish.is_some();
                if wanted {
                    model.acknowledge(n);
                    model.say(n, Phase::Succeeded, None);
                } else {
                    // What is not wanted any more is dropped.
                    model.say(n, Phase::Idle, None);
                }
            }
            model.now = UnixSeconds(model.now.0 + 3600);
        }
        prop_assert!(model.rollout.state.is_end() || model.rollout.state == RolloutState::Draft, "it is stuck: {:?}", model.facts());
    }
}
