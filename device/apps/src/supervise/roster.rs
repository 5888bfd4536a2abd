//! Which applications run and which should: decides what to stop and what to start when the set changes. Never starts anything.

use std::collections::BTreeMap;

use protocol_types::{AppName, Digest, Reason, socket::GivenToApplication};

use crate::store::{ImageKey, StoredApplication, StoredSet};

/// What the caller must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Stop the application; say so with [`Roster::stopped`] when it is gone, and with [`Roster::stuck`] if it does not go.
    Stop(AppName),
    /// Start it.
    Start(Box<StoredApplication>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Live {
    application: StoredApplication,
    /// What it was given when it was started.
    given: Option<GivenToApplication>,
    leaving: Leaving,
}

/// How far an application is on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Leaving {
    /// It shall run.
    No,
    /// It was asked to stop.
    Asked,
    /// It does not end, for this reason.
    Stuck(Reason),
}

/// The applications that there are and those that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    release: Option<Digest>,
    wanted: BTreeMap<AppName, StoredApplication>,
    given: BTreeMap<AppName, GivenToApplication>,
    live: BTreeMap<AppName, Live>,
}

impl Roster {
    /// The set that was wanted last.
    pub const fn release(&self) -> Option<Digest> {
        self.release
    }

    /// The applications of that set.
    pub fn wanted(&self) -> impl Iterator<Item = &StoredApplication> {
        self.wanted.values()
    }

    /// Whether nothing runs.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The images of all that runs, also of what is being stopped.
    pub fn images(&self) -> impl Iterator<Item = ImageKey> {
        self.live.values().map(|live| live.application.image)
    }

    /// Whether something is on its way out.
    pub fn is_stopping(&self) -> bool {
        self.live.values().any(|live| live.leaving != Leaving::No)
    }

    /// The applications that do not end, and why.
    pub fn all_stuck(&self) -> impl Iterator<Item = (&StoredApplication, &Reason)> {
        self.live.values().filter_map(|live| match &live.leaving {
            Leaving::Stuck(reason) => Some((&live.application, reason)),
            Leaving::No | Leaving::Asked => None,
        })
    }

    /// Wants exactly `set`. Applications that are the same in it go on undisturbed. All others are stopped first, and only
    /// when they are gone are new ones started: two versions of an application may want the same port. One that does not end holds
    /// up none but the next of its own name.
    pub fn run(&mut self, set: StoredSet) -> Vec<Change> {
        self.release = Some(set.release);
        self.wanted = set.applications.into_iter().map(|a| (a.spec.name.clone(), a)).collect();
        self.close_the_gap()
    }

    /// Wants each application to run with these settings and secrets of its own. One that runs with others is stopped first.
    pub fn configure(&mut self, given: &BTreeMap<AppName, GivenToApplication>) -> Vec<Change> {
        self.given.clone_from(given);
        self.close_the_gap()
    }

    /// Wants nothing to run any more.
    pub fn stop_all(&mut self) -> Vec<Change> {
        self.wanted.clear();
        self.close_the_gap()
    }

    /// An application is gone.
    pub fn stopped(&mut self, name: &AppName) -> Vec<Change> {
        self.live.remove(name);
        self.close_the_gap()
    }

    /// An application that was to stop does not end.
    pub fn stuck(&mut self, name: &AppName, reason: Reason) -> Vec<Change> {
        if let Some(live) = self.live.get_mut(name).filter(|live| live.leaving != Leaving::No) {
            live.leaving = Leaving::Stuck(reason);
        }
        self.close_the_gap()
    }

    fn close_the_gap(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, live) in &mut self.live {
            let unchanged = self.wanted.get(name).is_some_and(|wanted| is_same(wanted, &live.application))
                && self.given.get(name) == live.given.as_ref();
            if !unchanged && live.leaving == Leaving::No {
                live.leaving = Leaving::Asked;
                changes.push(Change::Stop(name.clone()));
            }
        }
        if self.live.values().any(|live| live.leaving == Leaving::Asked) {
            return changes;
        }
        for (name, application) in &self.wanted {
            if !self.live.contains_key(name) {
                let given = self.given.get(name).cloned();
                let live = Live { application: application.clone(), given, leaving: Leaving::No };
                self.live.insert(name.clone(), live);
                changes.push(Change::Start(Box::new(application.clone())));
            }
        }
        changes
    }
}

/// Whether nothing that a process could notice differs. A version is a label of the release, not of the bytes.
fn is_same(one: &StoredApplication, other: &StoredApplication) -> bool {
    one.spec.digest == other.spec.digest && one.spec.run == other.spec.run && one.image == other.image
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use protocol_types::{ApplicationSpec, RunSettings};

    use super::*;
    use crate::image::ImageProcess;

    fn set(release: u8, applications: &BTreeMap<u8, u8>) -> StoredSet {
        let applications = applications.iter().map(|(name, image)| {
            let digest = Digest::of(&[*image]);
            StoredApplication {
                spec: ApplicationSpec {
                    name: AppName::new(format!("app{name}")).unwrap(),
                    version: "1.0.0".parse().unwrap(),
                    digest,
                    size: 1,
                    run: RunSettings { network: Default::default(), memory_bytes: 1, pids: 1, ready: None },
                },
                image: ImageKey { manifest: digest, first_uid: 0 },
                process: ImageProcess { args: vec![], env: vec![], working_dir: "/".into(), user: "".into() },
                blobs: vec![],
            }
        });
        StoredSet { format: 1, release: Digest::of(&[release]), applications: applications.collect() }
    }

    /// What runs, as the caller sees it.
    #[derive(Default)]
    struct World {
        running: BTreeMap<AppName, Digest>,
        stopping: BTreeSet<AppName>,
        starts: usize,
    }

    impl World {
        fn apply(&mut self, changes: Vec<Change>) {
            for change in changes {
                match change {
                    Change::Stop(name) => {
                        assert!(self.running.contains_key(&name), "{name} does not run");
                        assert!(self.stopping.insert(name), "stopped twice");
                    }
                    Change::Start(application) => {
                        assert!(self.stopping.is_empty(), "started before {:?} were gone", self.stopping);
                        let spec = application.spec;
                        assert!(self.running.insert(spec.name, spec.digest).is_none(), "started twice");
                        self.starts += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn an_application_that_is_the_same_in_the_new_set_is_not_disturbed() {
        let (mut roster, mut world) = (Roster::default(), World::default());
        world.apply(roster.run(set(1, &BTreeMap::from([(1, 1), (2, 1)]))));
        assert_eq!(world.starts, 2);
        let changes = roster.run(set(2, &BTreeMap::from([(1, 1), (2, 2)])));
        assert_eq!(changes, [Change::Stop(AppName::new("app2").unwrap())]);
    }

    #[test]
    fn the_image_of_an_application_is_in_use_until_it_is_gone() {
        let (mut roster, app) = (Roster::default(), AppName::new("app1").unwrap());
        let images = |roster: &Roster| roster.images().map(|image| image.manifest).collect::<Vec<_>>();
        roster.run(set(1, &BTreeMap::from([(1, 1)])));
        roster.run(set(2, &BTreeMap::from([(1, 2)])));
        assert_eq!((images(&roster), roster.is_stopping()), (vec![Digest::of(&[1])], true));
        roster.stopped(&app);
        assert_eq!((images(&roster), roster.is_stopping()), (vec![Digest::of(&[2])], false));
    }

    #[test]
    fn one_that_does_not_end_holds_up_nobody_but_the_next_of_its_name() {
        let mut roster = Roster::default();
        let app = |number: u8| AppName::new(format!("app{number}")).unwrap();
        let started = |changes: Vec<Change>| {
            let [Change::Start(started)] = &changes[..] else { panic!("{changes:?}") };
            (started.spec.name.clone(), started.spec.digest)
        };
        roster.run(set(1, &BTreeMap::from([(1, 1), (2, 1)])));
        assert_eq!(roster.run(set(2, &BTreeMap::from([(1, 2), (3, 3)]))), [Change::Stop(app(1)), Change::Stop(app(2))]);
        let reason = Reason::new(protocol_types::ReasonCode::ApplicationNotReady, "it does not end");
        assert_eq!(roster.stuck(&app(1), reason.clone()), [], "another one is still on its way out");
        assert_eq!(started(roster.stopped(&app(2))), (app(3), Digest::of(&[3])));
        let stuck: Vec<_> = roster.all_stuck().map(|(application, why)| (&application.spec.name, why)).collect();
        assert_eq!(stuck, [(&app(1), &reason)]);
        assert_eq!(started(roster.stopped(&app(1))), (app(1), Digest::of(&[2])));
        assert_eq!(roster.all_stuck().count(), 0);
    }

    #[test]
    fn an_application_is_started_anew_for_settings_of_its_own_and_for_no_others() {
        let (mut roster, mut world) = (Roster::default(), World::default());
        let app = |number: u8| AppName::new(format!("app{number}")).unwrap();
        world.apply(roster.run(set(1, &BTreeMap::from([(1, 1), (2, 1)]))));
        let given = |text: &str| GivenToApplication { settings: Some(text.to_owned()), ..Default::default() };
        let settings = BTreeMap::from([(app(2), given("{\"a\":1}")), (app(9), given("{}"))]);
        assert_eq!(roster.configure(&settings), [Change::Stop(app(2))]);
        assert_eq!(roster.configure(&settings), [], "asked once");
        let [Change::Start(started)] = &roster.stopped(&app(2))[..] else { panic!("it is not started again") };
        assert_eq!(started.spec.name, app(2));
        assert_eq!(roster.configure(&settings), []);
    }

    proptest! {
        #[test]
        fn after_any_wishes_exactly_the_last_set_runs(
            wishes in prop::collection::vec(
                (prop::collection::btree_map(0u8..4, 0u8..3, 0..4), prop::collection::vec(any::<prop::sample::Index>(), 0..3)),
                1..8,
            ),
        ) {
            let (mut roster, mut world) = (Roster::default(), World::default());
            for (number, (wish, gone)) in (0u8..).zip(&wishes) {
                world.apply(roster.run(set(number, wish)));
                for index in gone {
                    if world.stopping.is_empty() { break; }
                    let name = world.stopping.iter().nth(index.index(world.stopping.len())).unwrap().clone();
                    world.stopping.remove(&name);
                    world.running.remove(&name);
                    world.apply(roster.stopped(&name));
                }
            }
            while let Some(name) = world.stopping.pop_first() {
                world.running.remove(&name);
                world.apply(roster.stopped(&name));
            }
            let wanted: BTreeMap<_, _> = set(0, &wishes.last().unwrap().0)
                .applications.into_iter().map(|a| (a.spec.name, a.spec.digest)).collect();
            prop_assert_eq!(world.running, wanted);
        }
    }
}
