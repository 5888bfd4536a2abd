//! The plan against a world of boot entries, slots and tries, driven by random facts.

mod giving_way;

use proptest::prelude::*;
use protocol_release::document::{Blocks, FormatOne, OsIndex, Section, SectionName};
use protocol_types::{
    Answer, AppName, BoardName, DeviceConsent, Digest, Phase, Reason, ReasonCode, SecurityVersion, Slot, UnixSeconds,
    boot::{BootEntry, Tries},
    socket::{ApplicationState, ApplicationStatus, Contact},
};

use super::*;
use crate::{
    disk::Room,
    record::{
        Configuration, Verdict,
        tests::{application, note, wish},
    },
};

/// The room of the board `host`.
const ROOM: Room = Room { root: 1 << 20, verity: None, firmware: None };
const ONLINE: Contact = Contact { registered: true, network: true };
const SILENT: Contact = Contact { registered: false, network: false };

/// A release: `1.x.0` has the operating system `x / 2`, so that neighbours share one.
fn goal(minor: u64) -> Box<Goal> {
    let mut note = note(&format!("1.{minor}.0"));
    note.raises_floor = minor == 3;
    let blocks = Blocks { digest: root(minor / 2), size: 64 };
    let section = |name| Section { name, digest: Digest::of(b"section"), size: 5000, blocks };
    let os = OsIndex {
        format: FormatOne,
        board: BoardName::new("host").unwrap(),
        version: note.version.clone(),
        sections: vec![section(SectionName::Root), section(SectionName::Uki)],
        root_hash: None,
    };
    Box::new(Goal { note, os: Some(os) })
}

fn asking(has_deadline: bool) -> DeviceConsent {
    DeviceConsent { deadline: has_deadline.then_some(UnixSeconds(1_800_000_000)) }
}

fn root(os: u64) -> Digest {
    Digest::of(&os.to_be_bytes())
}

fn ready(set: &str, state: ApplicationState) -> Fact {
    let spec = application("hello");
    let status = ApplicationStatus { name: spec.name, digest: spec.digest, state, restarts: 0, reason: None };
    Fact::Applications { set: Some(Digest::of(set.as_bytes())), statuses: vec![status] }
}

/// What the next step of the plan under way is, and what is durable around it.
struct World {
    plan: Plan,
    disk: Record,
    entries: Vec<BootEntry>,
    /// Root digest in each slot; none while it is being written.
    slots: [Option<Digest>; 2],
    asked: Option<Step>,
    checked: Vec<Wish>,
    armed: Vec<Wish>,
    /// Wishes that somebody at the device said yes to, or whose deadline passed.
    agreed: Vec<Wish>,
    /// The newest wish of the service and of a person that came to its end.
    ended: [Option<Wish>; 2],
    elapsed: u64,
    trial_since: Option<u64>,
    boots_in_trial: u32,
    /// Whether the next boot makes a new state.
    forgets: bool,
    /// Of every system that boots from now on, as far as it is known.
    security_version: Option<SecurityVersion>,
}

fn running(entry: BootEntry, slots: [Option<Digest>; 2]) -> Running {
    let root = slots[usize::from(entry.slot == Slot::B)].expect("a slot without a system was booted");
    Running {
        slot: entry.slot,
        root,
        os_version: "1.0.0".to_owned(),
        generation: entry.generation,
        security_version: None,
        restarts_agent: false,
        firmware: None,
    }
}

impl World {
    fn new() -> Self {
        let entries = vec![BootEntry { generation: 1, slot: Slot::A, tries: None }];
        let slots = [Some(root(0)), None];
        let (plan, steps) = Plan::start(Record::default(), running(entries[0], slots), &entries, ROOM, 0);
        let mut world = Self {
            plan,
            disk: Record::default(),
            entries,
            slots,
            asked: None,
            checked: Vec::new(),
            armed: Vec::new(),
            agreed: Vec::new(),
            ended: [None, None],
            elapsed: 0,
            trial_since: None,
            boots_in_trial: 0,
            forgets: false,
            security_version: None,
        };
        world.perform(steps, usize::MAX);
        world
    }

    fn tell(&mut self, fact: Fact) {
        let steps = self.plan.on(fact);
        self.perform(steps, usize::MAX);
    }

    /// Performs at most `most` steps, then power fails; `false` if it did.
    fn perform(&mut self, steps: Vec<Step>, most: usize) -> bool {
        for (done, step) in steps.into_iter().enumerate() {
            if done >= most {
                self.boot();
                return false;
            }
            self.perform_one(step);
        }
        true
    }

    fn perform_one(&mut self, step: Step) {
        match &step {
            Step::Check(wish) => {
                let ended = self.ended.iter().flatten().any(|ended| ended == wish);
                assert!(!ended, "a wish that came to its end is tried again");
                self.checked.push(wish.clone());
                self.asked = Some(step);
            }
            Step::Retire(slot) => {
                assert_ne!(*slot, self.plan.running.slot, "the running slot would be written");
                self.entries.retain(|entry| entry.slot != *slot);
            }
            Step::Bring { slot, .. } => {
                assert_ne!(*slot, self.plan.running.slot, "the running slot would be written");
                assert!(self.entries.iter().all(|entry| entry.slot != *slot), "a bootable slot would be written");
                self.slots[usize::from(*slot == Slot::B)] = None;
                self.asked = Some(step);
            }
            Step::ReadBack { goal, slot } => {
                self.slots[usize::from(*slot == Slot::B)] = goal.os.as_ref().unwrap().root_digest();
                self.asked = Some(step);
            }
            Step::Prepare { .. } => self.asked = Some(step),
            Step::Drop => self.asked = None,
            Step::Save(record) => {
                if let Some(wish) = record.pending.as_ref().map(|pending| &pending.wish) {
                    assert!(wish.consent.is_none() || self.agreed.contains(wish), "nobody said yes to {wish:?}");
                }
                self.disk = (**record).clone();
            }
            Step::Arm(entry) => {
                assert_eq!(self.disk.pending.as_ref().unwrap().generation, Some(entry.generation));
                assert!(self.entries.iter().all(|e| e.generation < entry.generation));
                self.armed.push(self.disk.pending.as_ref().unwrap().wish.clone());
                self.entries.push(*entry);
            }
            Step::Confirm(generation) => self.recount(*generation, None),
            Step::Exhaust(generation) => self.recount(*generation, Some(Tries { left: 0, done: 0 })),
            Step::Forsake(slot) => {
                assert_ne!(*slot, self.plan.running.slot, "the running slot would not start any more");
                for entry in self.entries.iter_mut().filter(|entry| entry.slot == *slot) {
                    entry.tries = Some(Tries { left: 0, done: 0 });
                }
            }
            Step::Done => self.tell(Fact::Done),
            Step::ForgetState => self.forgets = true,
            Step::Reboot => self.boot(),
            Step::Firmware(_) => panic!("this board has no slots for firmware"),
            Step::Run { .. } | Step::Configure(_) | Step::Retain { .. } | Step::RaiseFloor(_) => {}
        }
        let bootable = self.entries.iter().any(|entry| {
            entry.is_bootable() && self.slots[usize::from(entry.slot == Slot::B)].is_some() && entry.tries.is_none()
        });
        assert!(bootable, "no confirmed entry leads to a whole system: {:?}", self.entries);
        for (ended, origin) in self.ended.iter_mut().zip([Origin::Service, Origin::Folder]) {
            let settled = self.plan.record.settled(origin).filter(|settled| settled.no_contact == 0);
            *ended = settled.map(|settled| settled.wish.clone());
        }
    }

    fn recount(&mut self, generation: u32, tries: Option<Tries>) {
        for entry in self.entries.iter_mut().filter(|entry| entry.generation == generation) {
            entry.tries = tries;
        }
    }

    /// The loader's rules, then a new start of the updater with what is durable.
    fn boot(&mut self) {
        if std::mem::take(&mut self.forgets) {
            (self.disk, self.ended) = (Record::default(), [None, None]);
        }
        let chosen = BootEntry::choose(self.entries.iter().copied()).expect("nothing boots");
        for entry in &mut self.entries {
            if *entry == chosen {
                *entry = chosen.after_try();
            }
        }
        self.restart(chosen.after_try());
    }

    /// The initrd's rule for a confirmed system that does not come up any more.
    fn give_way(&mut self) {
        let (entries, slot) = (&mut self.entries, self.plan.running.slot);
        let (mine, others): (Vec<_>, Vec<_>) = entries.iter_mut().partition(|entry| entry.slot == slot);
        let was_confirmed = |entry: &BootEntry| entry.tries.is_none() || entry.gave_way();
        let to = others.into_iter().filter(|entry| was_confirmed(entry));
        let to = to.max_by_key(|entry| (entry.tries.is_none(), entry.generation));
        if let (Some(from), Some(to)) = (mine.into_iter().find(|entry| entry.tries.is_none()), to) {
            (to.tries, from.tries) = (None, Some(Tries::GAVE_WAY));
            self.boot();
        }
    }

    fn restart(&mut self, entry: BootEntry) {
        self.asked = None;
        self.elapsed = 0;
        let running = Running { security_version: self.security_version, ..running(entry, self.slots) };
        let (plan, steps) = Plan::start(self.disk.clone(), running, &self.entries, ROOM, 0);
        self.plan = plan;
        self.boots_in_trial = if self.disk.pending.is_some() { self.boots_in_trial + 1 } else { 0 };
        assert!(self.boots_in_trial < 40, "a trial goes on for ever");
        self.perform(steps, usize::MAX);
    }

    /// The answer to whatever was asked last.
    fn answer(&mut self, how: u8) {
        let reason = |code| Reason::new(code, "so it was drawn");
        let fact = match (self.asked.take(), how) {
            (None, _) => return,
            (Some(_), 0) => Fact::Hindered(reason(ReasonCode::Unreachable)),
            (Some(_), 1) => Fact::Hindered(reason(ReasonCode::NoRoom)),
            (Some(Step::Prepare { set, .. }), 2) => {
                Fact::Prepared { set, refused: Some(reason(ReasonCode::UnsafeLayer)) }
            }
            (Some(_), 2) => Fact::Refused(reason(ReasonCode::BadSignature)),
            (Some(Step::Check(wish)), _) => {
                let minor = (0..6).find(|minor| goal(*minor).note.digest == wish.digest).unwrap();
                Fact::Checked(goal(minor))
            }
            (Some(Step::Bring { section, from_block, .. }), _) => Fact::Brought { section, next_block: from_block + 1 },
            (Some(Step::ReadBack { .. }), _) => Fact::ReadBack,
            (Some(Step::Prepare { set, .. }), _) => Fact::Prepared { set, refused: None },
            (Some(_), _) => return,
        };
        self.tell(fact);
    }

    /// Somebody at the device answers the question about a release, or its deadline passes.
    fn consent(&mut self, digest: Digest, fact: Fact) {
        let asked = self.plan.question().and(self.plan.job()).map(|job| job.wish.clone());
        let counts = !matches!(fact, Fact::Answered(_, Answer::No));
        self.agreed.extend(asked.filter(|wish| counts && wish.digest == digest));
        self.tell(fact);
    }

    fn pass(&mut self, seconds: u64) {
        self.elapsed += seconds;
        self.tell(Fact::Time(Duration::from_secs(self.elapsed)));
        let on_trial = matches!(self.plan.stage, Stage::OnTrial { .. });
        self.trial_since = on_trial.then(|| self.trial_since.unwrap_or(self.elapsed).min(self.elapsed));
        if let Some(since) = self.trial_since {
            assert!(self.elapsed - since <= 601, "a trial without a verdict");
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Desire(u64, u8),
    Insist(u64),
    Rest,
    FolderGone,
    Answer(u8),
    Contact(u8),
    Apps(u8),
    Pass(u64),
    Window(bool),
    Consent(u64, Answer),
    DeadlinePassed,
    Crash,
    PowerCut,
    GiveWay,
    RestartAsked,
    ResetAsked,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0u64..6, 0u8..3).prop_map(|(minor, rollout)| Act::Desire(minor, rollout)),
        1 => (0u64..6).prop_map(Act::Insist),
        1 => Just(Act::Rest),
        1 => Just(Act::FolderGone),
        12 => (0u8..12).prop_map(Act::Answer),
        3 => (0u8..3).prop_map(Act::Contact),
        3 => (0u8..3).prop_map(Act::Apps),
        4 => (1u64..200).prop_map(Act::Pass),
        1 => any::<bool>().prop_map(Act::Window),
        2 => (0u64..6, any::<bool>()).prop_map(|(minor, yes)| Act::Consent(minor, if yes { Answer::Yes } else { Answer::No })),
        1 => Just(Act::DeadlinePassed),
        1 => Just(Act::Crash),
        1 => Just(Act::PowerCut),
        1 => Just(Act::GiveWay),
        1 => Just(Act::RestartAsked),
        1 => Just(Act::ResetAsked),
    ];
    proptest::collection::vec(act, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn after_any_sequence_of_facts_some_slot_boots_and_nothing_is_tried_for_ever(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            match act {
                Act::Desire(minor, rollout) => {
                    let consent = (rollout > 0).then(|| asking(rollout > 1));
                    let wish = wish(&format!("1.{minor}.0"), &format!("r{rollout}"));
                    world.tell(Fact::Desired(Wish { consent, ..wish }));
                }
                Act::Insist(minor) => {
                    let mut wish = wish(&format!("1.{minor}.0"), "none");
                    (wish.rollout, wish.origin) = (None, Origin::Folder);
                    world.ended[1] = None;
                    world.tell(Fact::Desired(wish));
                }
                Act::Rest => world.tell(Fact::Rest(Origin::Service)),
                Act::FolderGone => world.tell(Fact::Rest(Origin::Folder)),
                Act::Answer(how) => world.answer(how),
                Act::Contact(0) => world.tell(Fact::Contact(None)),
                Act::Contact(1) => world.tell(Fact::Contact(Some(SILENT))),
                Act::Contact(_) => world.tell(Fact::Contact(Some(ONLINE))),
                Act::Apps(how) => {
                    let version = world.plan.current().map_or("none".to_owned(), |note| note.version.to_string());
                    let state = [ApplicationState::Ready, ApplicationState::Started, ApplicationState::Failed];
                    world.tell(ready(&version, state[usize::from(how)]));
                }
                Act::Pass(seconds) => world.pass(seconds),
                Act::Window(is_open) => world.tell(Fact::Window(is_open)),
                Act::Consent(minor, answer) => {
                    let digest = goal(minor).note.digest;
                    world.consent(digest, Fact::Answered(digest, answer));
                }
                Act::DeadlinePassed => {
                    let ends = world.plan.question_ends().is_some();
                    if let Some(digest) = world.plan.job().filter(|_| ends).map(|job| job.wish.digest) {
                        world.consent(digest, Fact::DeadlinePassed);
                    } else {
                        world.tell(Fact::DeadlinePassed);
                    }
                }
                Act::Crash => {
                    let generation = world.plan.running.generation;
                    let entry = world.entries.iter().find(|entry| entry.generation == generation).copied();
                    world.restart(entry.expect("the entry of the running system is gone"));
                }
                Act::PowerCut => world.boot(),
                Act::GiveWay => world.give_way(),
                Act::RestartAsked => world.tell(Fact::RestartAsked),
                Act::ResetAsked => world.tell(Fact::ResetAsked),
            }
            let _ = world.plan.status(SecurityVersion(0));
        }
        // Whatever happened: once things go well, the newest wish comes to its end.
        world.tell(Fact::Window(true));
        world.tell(Fact::Rest(Origin::Folder));
        let last = Wish { consent: Some(asking(false)), ..wish("1.5.0", "last") };
        world.tell(Fact::Desired(last.clone()));
        for _ in 0..200 {
            world.answer(9);
            world.consent(last.digest, Fact::Answered(last.digest, Answer::Yes));
            let version = world.plan.current().map_or("none".to_owned(), |note| note.version.to_string());
            world.tell(ready(&version, ApplicationState::Ready));
            world.tell(Fact::Contact(Some(ONLINE)));
            world.tell(Fact::Desired(last.clone()));
            world.pass(60);
        }
        let status = world.plan.status(SecurityVersion(0));
        prop_assert_eq!(status.phase, Phase::Succeeded, "{:?}", world.plan);
        prop_assert_eq!(status.running.version.to_string(), "1.5.0");
        prop_assert_eq!(world.disk.pending, None);
    }

    #[test]
    fn power_may_fail_between_any_two_steps_of_an_update(
        // A third cut during the trial would use up the loader's tries, which is another claim.
        cuts in proptest::collection::vec(0usize..4, 0..3),
        healthy: bool,
    ) {
        let mut world = World::new();
        let mut cuts = cuts.into_iter();
        for round in 0..400u64 {
            let mut facts = vec![Fact::Desired(wish("1.2.0", "r1")), Fact::Contact(Some(ONLINE))];
            if healthy {
                facts.push(ready("1.2.0", ApplicationState::Ready));
            }
            facts.push(Fact::Time(Duration::from_secs(round * 20)));
            for fact in facts {
                let steps = world.plan.on(fact);
                let most = if steps.len() > 1 { cuts.next().unwrap_or(usize::MAX) } else { usize::MAX };
                if !world.perform(steps, most) {
                    break;
                }
            }
            world.answer(9);
        }
        let status = world.plan.status(SecurityVersion(0));
        prop_assert_eq!(status.phase, if healthy { Phase::Succeeded } else { Phase::RolledBack });
        prop_assert_eq!(status.running.os_digest, root(u64::from(healthy)));
        prop_assert!(world.armed.len() <= 1 + 2);
    }
}

fn settled_world(minor: u64, rollout: &str, state: ApplicationState) -> World {
    let mut world = World::new();
    bring_to_trial(&mut world, minor, rollout);
    world.tell(ready(&format!("1.{minor}.0"), state));
    world
}

fn bring_to_trial(world: &mut World, minor: u64, rollout: &str) {
    world.tell(Fact::Contact(Some(ONLINE)));
    world.tell(Fact::Desired(wish(&format!("1.{minor}.0"), rollout)));
    while world.asked.is_some() {
        world.answer(9);
    }
    world.tell(Fact::Contact(Some(ONLINE)));
}

fn phase(world: &World) -> Phase {
    world.plan.status(SecurityVersion(0)).phase
}

#[test]
fn a_healthy_release_is_kept_and_the_old_slot_stays_bootable() {
    let world = settled_world(2, "r1", ApplicationState::Ready);
    assert_eq!(phase(&world), Phase::Succeeded);
    let mut entries: Vec<_> = world.entries.iter().map(ToString::to_string).collect();
    entries.sort();
    assert_eq!(entries, ["mbl-1-a.efi", "mbl-2-b.efi"]);
}

#[test]
fn outside_of_its_hours_a_release_is_brought_but_nothing_changes() {
    let mut world = World::new();
    world.tell(Fact::Window(false));
    bring_to_trial(&mut world, 2, "r1");
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Verifying, ReasonCode::OutsideWindow));
    assert!(world.armed.is_empty());
    // The service may think better of it until then.
    world.tell(Fact::Rest(Origin::Service));
    world.tell(Fact::Window(true));
    assert!(world.armed.is_empty());
    world.tell(Fact::Window(false));
    bring_to_trial(&mut world, 2, "r2");
    world.tell(Fact::Window(true));
    assert_eq!(world.armed, [wish("1.2.0", "r2")]);
    assert_eq!(phase(&world), Phase::Trial);
}

/// A world that brought the release `1.2.0`, which needs a yes, into its place.
fn world_that_asks(has_deadline: bool) -> (World, Wish) {
    let mut world = World::new();
    let wish = Wish { consent: Some(asking(has_deadline)), ..wish("1.2.0", "r1") };
    bring(&mut world, &wish);
    (world, wish)
}

fn bring(world: &mut World, wish: &Wish) {
    world.tell(Fact::Desired(wish.clone()));
    while world.asked.is_some() {
        world.answer(9);
    }
}

#[test]
fn a_release_that_needs_a_yes_is_brought_first_and_then_asked_about() {
    let (mut world, wish) = world_that_asks(false);
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Verifying, ReasonCode::ConsentNeeded));
    let question = status.question.unwrap();
    assert_eq!((question.version.to_string(), question.deadline), ("1.2.0".to_owned(), None));
    assert!(world.armed.is_empty());
    for stray in [Fact::Answered(Digest::of(b"another"), Answer::Yes), Fact::DeadlinePassed, Fact::Window(true)] {
        world.tell(stray);
        assert!(world.plan.question().is_some() && world.armed.is_empty());
    }
    world.consent(wish.digest, Fact::Answered(wish.digest, Answer::Yes));
    assert_eq!((world.armed.clone(), world.plan.question()), (vec![wish], None));
}

#[test]
fn a_no_leaves_the_device_as_it_is_and_only_another_wish_asks_again() {
    let (mut world, wish) = world_that_asks(true);
    world.tell(Fact::Answered(wish.digest, Answer::No));
    let declined = |world: &World| {
        let status = world.plan.status(SecurityVersion(0));
        status.is_declined() && status.phase == Phase::Failed && status.question.is_none()
    };
    assert!(declined(&world) && world.entries.len() == 1);
    // It lasts, and saying yes later or repeating the wish changes nothing.
    world.boot();
    bring(&mut world, &wish);
    world.tell(Fact::Answered(wish.digest, Answer::Yes));
    world.tell(Fact::DeadlinePassed);
    assert!(declined(&world) && world.armed.is_empty());
    let again = Wish { rollout: Some("r1_2".parse().unwrap()), ..wish };
    bring(&mut world, &again);
    world.consent(again.digest, Fact::Answered(again.digest, Answer::Yes));
    assert_eq!(world.armed, [again]);
}

#[test]
fn after_the_deadline_nobody_is_needed() {
    let (mut world, wish) = world_that_asks(true);
    assert_eq!(world.plan.question_ends(), Some(UnixSeconds(1_800_000_000)));
    world.consent(wish.digest, Fact::DeadlinePassed);
    assert_eq!(world.armed, [wish]);
}

#[test]
fn a_yes_outside_of_the_hours_lasts_until_they_come_whatever_happens_meanwhile() {
    let (mut world, wish) = world_that_asks(false);
    world.tell(Fact::Window(false));
    world.consent(wish.digest, Fact::Answered(wish.digest, Answer::Yes));
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.reason.unwrap().code, status.question), (ReasonCode::OutsideWindow, None));
    world.boot();
    world.tell(Fact::Window(false));
    bring(&mut world, &wish);
    assert!(world.armed.is_empty());
    assert_eq!(world.plan.question(), None, "nobody is asked twice");
    world.tell(Fact::Window(true));
    assert_eq!(world.armed, [wish]);
}

#[test]
fn a_wish_that_is_withdrawn_asks_nothing_any_more() {
    let (mut world, wish) = world_that_asks(false);
    world.tell(Fact::Rest(Origin::Service));
    assert_eq!(world.plan.question(), None);
    world.tell(Fact::Answered(wish.digest, Answer::Yes));
    assert!(world.armed.is_empty());
}

#[test]
fn a_person_at_the_device_need_not_wait_for_its_hours() {
    let mut world = World::new();
    world.tell(Fact::Window(false));
    let by_hand = Wish { rollout: None, origin: Origin::Folder, ..wish("1.2.0", "none") };
    world.tell(Fact::Desired(by_hand.clone()));
    while world.asked.is_some() {
        world.answer(9);
    }
    assert_eq!(world.armed, [by_hand]);
}

#[test]
fn a_release_that_changes_applications_alone_is_switched_in_place() {
    let world = settled_world(1, "r1", ApplicationState::Ready);
    assert_eq!(phase(&world), Phase::Succeeded);
    assert_eq!(world.entries.len(), 1, "no entry was touched");
    assert!(world.armed.is_empty(), "no restart was needed");
    assert_eq!(world.plan.confirmed().unwrap().version.to_string(), "1.1.0");
}

#[test]
fn new_settings_are_kept_only_when_an_agent_that_was_restarted_for_them_registers() {
    let mut world = settled_world(1, "r1", ApplicationState::Ready);
    world.plan.running.restarts_agent = true;
    let mut goal = goal(1);
    goal.note.digest = Digest::of(b"settings");
    goal.note.configurations.push(Configuration {
        name: AppName::new("system").unwrap(),
        digest: Digest::of(b"document"),
        size: 8,
    });
    let wish = Wish { digest: goal.note.digest, ..wish("1.1.0", "r2") };
    world.tell(Fact::Desired(wish));
    world.tell(Fact::Checked(goal.clone()));
    world.tell(Fact::Prepared { set: goal.note.digest, refused: None });
    world.tell(ready("settings", ApplicationState::Ready));
    assert_eq!(phase(&world), Phase::Trial, "the connection of before proves nothing");
    world.tell(Fact::Contact(None));
    world.tell(Fact::Contact(Some(Contact { registered: false, network: true })));
    assert_eq!(phase(&world), Phase::Trial);
    world.tell(Fact::Contact(Some(ONLINE)));
    assert_eq!(phase(&world), Phase::Succeeded);
}

#[test]
fn a_switch_in_place_that_fails_runs_the_previous_set_again() {
    let mut world = settled_world(1, "r1", ApplicationState::Ready);
    bring_to_trial(&mut world, 0, "r2");
    assert_eq!(phase(&world), Phase::Trial);
    let steps = world.plan.on(ready("1.0.0", ApplicationState::Failed));
    let previous = Digest::of(b"1.1.0");
    assert!(steps.iter().any(|step| matches!(step, Step::Run { set, .. } if *set == previous)));
    assert_eq!(phase(&world), Phase::RolledBack);
}

#[test]
fn a_failed_release_is_not_tried_again_until_a_new_rollout_asks() {
    let mut world = settled_world(2, "r1", ApplicationState::Failed);
    assert_eq!(phase(&world), Phase::RolledBack);
    let checks = world.checked.len();
    for _ in 0..3 {
        world.tell(Fact::Desired(wish("1.2.0", "r1")));
        world.tell(Fact::Rest(Origin::Service));
        world.pass(100_000);
        world.boot();
    }
    assert_eq!(world.checked.len(), checks);
    world.tell(Fact::Desired(wish("1.2.0", "r2")));
    assert_eq!(world.checked.len(), checks + 1);
}

#[test]
fn silence_after_a_restart_is_tried_again_once_the_service_is_back() {
    let mut world = World::new();
    bring_to_trial(&mut world, 2, "r1");
    world.tell(Fact::Contact(Some(SILENT)));
    world.tell(ready("1.2.0", ApplicationState::Ready));
    world.pass(600);
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::NoContact));
    assert_eq!(status.running.slot, Slot::A);
    world.tell(Fact::Desired(wish("1.2.0", "r1")));
    world.pass(7200);
    assert_eq!(world.checked.len(), 1, "nobody is there");
    world.tell(Fact::Contact(Some(ONLINE)));
    assert_eq!(world.checked.len(), 2);
    bring_to_trial(&mut world, 2, "r1");
    world.tell(ready("1.2.0", ApplicationState::Ready));
    assert_eq!(phase(&world), Phase::Succeeded);
}

#[test]
fn a_newer_wish_takes_the_place_of_one_that_is_being_written() {
    let mut world = World::new();
    world.tell(Fact::Desired(wish("1.2.0", "r1")));
    world.answer(9);
    world.answer(9);
    assert!(matches!(world.plan.stage, Stage::Writing { .. }));
    world.tell(Fact::Desired(wish("1.4.0", "r2")));
    assert_eq!(world.checked.last().unwrap().digest, Digest::of(b"1.4.0"));
    world.tell(Fact::Rest(Origin::Service));
    assert_eq!(phase(&world), Phase::Idle);
}

#[test]
fn a_wish_for_what_already_runs_touches_nothing() {
    let mut world = settled_world(2, "r1", ApplicationState::Ready);
    let checks = world.checked.len();
    world.tell(Fact::Desired(wish("1.2.0", "r2")));
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Succeeded, ReasonCode::AlreadyRunning));
    assert_eq!(world.checked.len(), checks);
}

#[test]
fn nothing_leads_to_a_system_below_a_floor_that_was_raised() {
    let world = settled_world(3, "r1", ApplicationState::Ready);
    let bootable: Vec<_> = world.entries.iter().filter(|entry| entry.is_bootable()).map(|entry| entry.slot).collect();
    assert_eq!((bootable, world.entries.len()), (vec![Slot::B], 2));
}

#[test]
fn the_other_slot_is_left_to_the_loader_if_its_system_is_known_to_be_above_the_floor() {
    for (of_other, slots) in [(Some(1), vec![Slot::A, Slot::B]), (Some(0), vec![Slot::B]), (None, vec![Slot::B])] {
        let mut world = settled_world(1, "r1", ApplicationState::Ready);
        // Whatever a release says that came in place, the system is as old as its own command line says.
        world.plan.record.a.as_mut().unwrap().os_security_version = of_other.map(SecurityVersion);
        bring_to_trial(&mut world, 3, "r2");
        world.tell(ready("1.3.0", ApplicationState::Ready));
        assert_eq!(phase(&world), Phase::Succeeded);
        let bootable = world.entries.iter().filter(|entry| entry.is_bootable()).map(|entry| entry.slot);
        assert_eq!(bootable.collect::<Vec<_>>(), slots, "{of_other:?}");
    }
}

#[test]
fn a_system_on_trial_that_nobody_remembers_is_left() {
    let mut world = World::new();
    bring_to_trial(&mut world, 2, "r1");
    assert_eq!(world.plan.running.slot, Slot::B);
    world.disk = Record::default();
    let entry = *world.entries.iter().find(|entry| entry.generation == 2).unwrap();
    world.restart(entry);
    assert_eq!(world.plan.running.slot, Slot::A);
}

#[test]
fn a_disk_that_refuses_the_good_verdict_for_a_minute_is_a_reason_to_go_back() {
    let mut world = World::new();
    bring_to_trial(&mut world, 2, "r1");
    let mut steps = world.plan.on(ready("1.2.0", ApplicationState::Ready));
    for second in 0..60 {
        assert!(steps.iter().any(|step| matches!(step, Step::Confirm(2))), "{steps:?}");
        steps = world.plan.on(Fact::Hindered(Reason::new(ReasonCode::StorageFailed, "no")));
        if steps.is_empty() {
            steps = world.plan.on(Fact::Time(Duration::from_secs(5 * (second + 1))));
        } else {
            break;
        }
    }
    world.perform(steps, usize::MAX);
    assert_eq!(world.plan.running.slot, Slot::A);
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::StorageFailed));
}

#[test]
fn there_is_no_way_back_once_the_floor_may_have_been_raised() {
    let mut world = World::new();
    bring_to_trial(&mut world, 3, "r1");
    let mut steps = world.plan.on(ready("1.3.0", ApplicationState::Ready));
    for try_ in 1..=3 * u64::from(CONFIRM_TRIES) {
        assert!(steps.iter().any(|step| matches!(step, Step::RaiseFloor(_))), "{steps:?}");
        assert_eq!(world.plan.on(Fact::Hindered(Reason::new(ReasonCode::StorageFailed, "no"))), []);
        steps = world.plan.on(Fact::Time(Duration::from_secs(5 * try_)));
    }
    world.perform(steps, usize::MAX);
    assert_eq!((world.plan.running.slot, phase(&world)), (Slot::B, Phase::Succeeded));
}

#[test]
fn a_release_whose_floor_the_system_that_stays_is_below_is_refused() {
    for (of_image, expected) in [(Some(0), Phase::Failed), (Some(1), Phase::Trial), (None, Phase::Trial)] {
        let mut world = World::new();
        world.plan.running.security_version = of_image.map(SecurityVersion);
        world.tell(Fact::Desired(wish("1.1.0", "r1")));
        // The release has no operating system, and raises the floor to 1.
        let mut goal = goal(1);
        (goal.note.raises_floor, goal.os) = (true, None);
        world.asked = None;
        world.tell(Fact::Checked(goal));
        while world.asked.is_some() {
            world.answer(9);
        }
        let status = world.plan.status(SecurityVersion(0));
        assert_eq!(status.phase, expected, "{of_image:?}");
        let code = status.reason.map(|reason| reason.code);
        assert_eq!(code, (expected == Phase::Failed).then_some(ReasonCode::FloorTooHigh));
    }
}

#[test]
fn what_a_refused_release_has_brought_is_not_kept() {
    let mut world = World::new();
    world.tell(Fact::Desired(wish("1.1.0", "r1")));
    while !matches!(world.asked, Some(Step::Prepare { .. }) | None) {
        world.answer(9);
    }
    let Some(Step::Prepare { set, .. }) = world.asked.take() else { panic!("nothing was to be prepared") };
    let refused = Some(Reason::new(ReasonCode::UnsafeLayer, "no"));
    let steps = world.plan.on(Fact::Prepared { set, refused });
    let retains = |step: &Step| matches!(step, Step::Retain { sets, .. } if !sets.contains(&set));
    assert!(steps.iter().any(retains), "{steps:?}");
}

#[test]
fn a_kernel_image_that_is_above_the_new_floor_is_installed_with_the_root_that_runs() {
    let mut world = World::new();
    world.plan.running.security_version = Some(SecurityVersion(0));
    world.security_version = Some(SecurityVersion(1));
    world.tell(Fact::Desired(wish("1.1.0", "r1")));
    let mut goal = goal(1);
    goal.note.raises_floor = true;
    world.asked = None;
    world.tell(Fact::Checked(goal));
    while world.asked.is_some() {
        world.answer(9);
    }
    assert_eq!((world.plan.running.slot, phase(&world)), (Slot::B, Phase::Trial));
}

#[test]
fn a_system_that_the_floor_of_its_own_release_would_lock_out_goes_back() {
    let mut world = World::new();
    world.security_version = Some(SecurityVersion(0));
    bring_to_trial(&mut world, 3, "r1");
    assert_eq!(world.plan.running.slot, Slot::A);
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::FloorTooHigh));
}

#[test]
fn a_restart_that_the_service_asks_for_waits_for_the_end_of_an_update() {
    let mut world = World::new();
    world.tell(Fact::Desired(wish("1.2.0", "r1")));
    assert!(world.plan.on(Fact::RestartAsked).is_empty());
    world.tell(Fact::Rest(Origin::Service));
    let steps = world.plan.on(Fact::RestartAsked);
    assert_eq!(steps, [Step::Reboot]);
}

#[test]
fn a_factory_reset_drops_what_was_not_tried_and_lasts_before_the_device_goes_down() {
    let mut world = World::new();
    world.tell(Fact::Desired(wish("1.2.0", "r1")));
    world.answer(9);
    assert!(matches!(world.plan.stage, Stage::Writing { .. }));
    assert_eq!(world.plan.on(Fact::ResetAsked), [Step::Drop, Step::ForgetState, Step::Done]);
    assert_eq!(world.plan.on(Fact::Done), [Step::Reboot]);
}

#[test]
fn a_factory_reset_while_a_release_is_being_armed_drops_the_release_and_is_not_lost() {
    let mut world = World::new();
    world.tell(Fact::Desired(wish("1.2.0", "r1")));
    while !matches!(world.asked, Some(Step::Prepare { .. }) | None) {
        world.answer(9);
    }
    let Some(Step::Prepare { set, .. }) = world.asked.take() else { panic!("nothing was to be prepared") };
    let mut steps = world.plan.on(Fact::Prepared { set, refused: None });
    assert_eq!(steps.pop(), Some(Step::Done));
    world.perform(steps, usize::MAX);
    assert_eq!(world.armed.len(), 1);
    assert_eq!(world.plan.on(Fact::ResetAsked), []);
    let steps = world.plan.on(Fact::Done);
    assert!(steps.contains(&Step::ForgetState) && !steps.contains(&Step::Reboot), "{steps:?}");
    world.perform(steps, usize::MAX);
    assert_eq!((world.plan.running.slot, &world.disk), (Slot::A, &Record::default()), "not tried, and forgotten");
    assert!(world.entries.iter().all(|entry| entry.generation == 1 || !entry.is_bootable()));
}

#[test]
fn a_factory_reset_waits_for_the_verdict_of_a_trial() {
    let mut world = World::new();
    bring_to_trial(&mut world, 2, "r1");
    assert_eq!(world.plan.on(Fact::ResetAsked), []);
    world.tell(ready("1.2.0", ApplicationState::Ready));
    world.tell(Fact::Contact(Some(ONLINE)));
    assert_eq!((world.plan.running.slot, &world.disk), (Slot::B, &Record::default()), "kept, then forgotten");
    bring_to_trial(&mut world, 4, "r2");
    world.tell(Fact::ResetAsked);
    world.tell(ready("1.4.0", ApplicationState::Failed));
    assert_eq!((world.plan.running.slot, &world.disk), (Slot::B, &Record::default()), "left, and forgotten");
}

#[test]
fn a_factory_reset_that_cannot_be_asked_for_restarts_nothing() {
    let mut world = World::new();
    world.plan.on(Fact::ResetAsked);
    let refused = Reason::new(ReasonCode::StorageFailed, "the disk refuses");
    assert_eq!(world.plan.on(Fact::Hindered(refused)), []);
    assert!(matches!(world.plan.stage, Stage::Resting));
}

#[test]
fn a_slot_that_is_too_small_is_said_so_before_anything_is_written() {
    let mut world = World::new();
    world.plan.room.root = 4096;
    world.tell(Fact::Desired(wish("1.2.0", "r1")));
    world.answer(9);
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::NoRoom));
    assert_eq!(world.slots[1], None);
}

#[test]
fn a_hash_tree_beyond_its_partition_is_said_so_before_anything_is_written() {
    for (verity, code) in [(None, ReasonCode::WrongBoard), (Some(4096), ReasonCode::NoRoom)] {
        let mut world = World::new();
        world.plan.room.verity = verity;
        world.tell(Fact::Desired(wish("1.2.0", "r1")));
        let mut goal = goal(2);
        let os = goal.os.as_mut().unwrap();
        os.sections.push(Section { name: SectionName::Verity, ..os.sections[0].clone() });
        os.root_hash = Some(Digest::of(b"root hash"));
        world.tell(Fact::Checked(goal));
        let status = world.plan.status(SecurityVersion(0));
        assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, code));
        assert_eq!(world.slots[1], None);
    }
}

#[test]
fn a_vouched_time_is_saved_once_an_hour() {
    let mut world = World::new();
    world.tell(Fact::TrustedTime(UnixSeconds(10_000)));
    assert_eq!(world.disk.time, UnixSeconds(10_000));
    world.tell(Fact::TrustedTime(UnixSeconds(13_000)));
    assert_eq!(world.disk.time, UnixSeconds(10_000));
}

#[test]
fn a_verdict_that_was_taken_survives_a_cut_before_it_was_carried_out() {
    let mut world = World::new();
    bring_to_trial(&mut world, 2, "r1");
    let steps = world.plan.on(ready("1.2.0", ApplicationState::Failed));
    let running = world.plan.status(SecurityVersion(0)).running;
    assert_eq!(running.version.to_string(), "1.2.0", "until the restart it runs");
    assert!(matches!(&steps[0], Step::Save(record)
        if matches!(record.pending.as_ref().unwrap().verdict, Some(Verdict::Return(_)))));
    assert!(!world.perform(steps, 1), "power fails before the tries are taken");
    let status = world.plan.status(SecurityVersion(0));
    assert_eq!(status.reason.unwrap().code, ReasonCode::ApplicationNotReady);
    assert_eq!(world.plan.running.slot, Slot::A);
}
