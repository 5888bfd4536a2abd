//! Rollouts beside each other, on the real store: in whatever order they are started, paused, aborted and completed, no device is left
//! where no rollout can reach it.

use std::{cell::Cell, collections::BTreeMap};

use fleet_store::{
    AccountScope, Audience, DesiredRelease, DeviceEvent, DeviceReport, NewRollout, Policy, Promise, Retries,
    RolloutRow, Subject, Threshold, Wave,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use protocol_types::{
    Consent, DeviceState, Digest, EndpointName, OnFailure, Phase, Reason, ReasonCode, RolloutAction, RolloutId,
    SecurityVersion, UnixSeconds,
};

use super::plan::decide;
use crate::test_service::{Publisher, TestService};

const DEVICES: usize = 3;
const VERSIONS: [&str; 3] = ["1.0.0", "1.1.0", "1.2.0"];
const STARTED_FIRST: UnixSeconds = UnixSeconds(1_800_000_000);

/// One thing that somebody does.
#[derive(Clone, Debug)]
enum Deed {
    Start {
        version: usize,
        only: Option<usize>,
        priority: u8,
        again: u8,
        wave: bool,
    },
    Act(usize, RolloutAction),
    /// A device takes its wish and comes so far with it.
    Work(usize, Phase),
    Connect(usize, bool),
}

fn deed() -> impl Strategy<Value = Deed> {
    let action = prop::sample::select(vec![
        RolloutAction::Pause,
        RolloutAction::Resume,
        RolloutAction::Abort,
        RolloutAction::Close,
    ]);
    let phase = prop::sample::select(vec![
        Phase::Downloading,
        Phase::Installing,
        Phase::Trial,
        Phase::Succeeded,
        Phase::Succeeded,
        Phase::Failed,
        Phase::RolledBack,
    ]);
    let start = (0..VERSIONS.len(), prop::option::of(0..DEVICES), 40_u8..60, 0_u8..2, any::<bool>());
    prop_oneof![
        3 => start.prop_map(|(version, only, priority, again, wave)| Deed::Start { version, only, priority, again, wave }),
        3 => (0_usize..6, action).prop_map(|(n, action)| Deed::Act(n, action)),
        6 => (0..DEVICES, phase).prop_map(|(n, phase)| Deed::Work(n, phase)),
        2 => (0..DEVICES, any::<bool>()).prop_map(|(n, on)| Deed::Connect(n, on)),
    ]
}

/// A fleet of simulated devices in an account of its own.
struct World<'a> {
    service: &'a TestService,
    account: AccountScope,
    devices: Vec<EndpointName>,
    /// What each device runs.
    running: BTreeMap<EndpointName, Digest>,
    rollouts: Vec<RolloutId>,
    now: UnixSeconds,
    /// The connection of each device; no other has its number.
    sessions: Vec<u64>,
}

impl<'a> World<'a> {
    async fn new(service: &'a TestService, name: &str) -> Self {
        let caller = service.caller(name).await;
        let mut publisher = Publisher::new(&caller).await;
        for version in VERSIONS {
            publisher.publish(version).await;
        }
        let mut devices = Vec::new();
        for n in 0..DEVICES {
            devices.push(service.device(name, &format!("d{n}")).await);
        }
        let account = service.account(name).await;
        let (running, rollouts) = (BTreeMap::new(), Vec::new());
        let sessions = vec![1; DEVICES];
        Self { service, account, devices, running, rollouts, now: STARTED_FIRST, sessions }
    }

    async fn start(&mut self, audience: Audience, (version, priority): (usize, u8), policy: Policy) -> RolloutId {
        let wanted = NewRollout {
            name: String::new(),
            subject: Subject::Release(VERSIONS[version].parse().unwrap()),
            audience,
            threshold: Threshold::Count(2),
            on_failure: if version == 1 { OnFailure::Return } else { OnFailure::Pause },
            max_in_flight: None,
            window: None,
            consent: Consent::Automatic,
            priority,
            policy,
        };
        let id = self.account.create_rollout(&wanted, None, self.now).await.unwrap().id;
        self.account.act_on_rollout(&id, RolloutAction::Start, (None, "t1"), self.now).await.unwrap();
        self.rollouts.push(id.clone());
        id
    }

    async fn connect(&mut self, n: usize, on: bool) {
        let connected = self.account.device(&self.devices[n]).await.unwrap().connected;
        if connected == on {
            return;
        }
        let what = if on {
            self.sessions[n] += 1;
            DeviceEvent::Registers {
                serial: "o1".into(),
                session: self.sessions[n],
                promise: Promise::new(86_400, false),
            }
        } else {
            DeviceEvent::Left { session: self.sessions[n] }
        };
        self.service.presence(self.account.name().as_str(), &self.devices[n], what).await;
    }

    /// The device takes its wish and says how far it is with it.
    async fn work(&mut self, n: usize, phase: Phase) {
        let endpoint = self.devices[n].clone();
        let Some(wish) = self.account.desired_release(&endpoint).await.unwrap() else { return };
        let Some(DesiredRelease { digest, rollout, attempt, .. }) = wish.release else { return };
        self.account.acknowledge_desired(&endpoint, wish.generation).await.unwrap();
        if phase == Phase::Succeeded {
            self.running.insert(endpoint.clone(), digest);
        }
        let failed = matches!(phase, Phase::Failed | Phase::RolledBack);
        let report = DeviceReport {
            phase,
            reason: failed.then(|| Reason::new(ReasonCode::BootFailed, "it did not start")),
            progress: None,
            rollout: Some(rollout),
            attempt,
            digest: Some(digest),
            running_version: None,
            running_digest: self.running.get(&endpoint).copied(),
            slot: None,
            floor: SecurityVersion(0),
        };
        self.account.record_report(&endpoint, &report, self.now).await.unwrap();
    }

    async fn rows(&self) -> Vec<RolloutRow> {
        // Those that bring devices back were started by the service itself.
        self.account.rollouts_after(0, 500).await.unwrap()
    }

    /// Looks at every rollout until nothing moves any more.
    async fn settle(&mut self) {
        let mut quiet = 0;
        for round in 0.. {
            assert!(round < 50, "the rollouts never come to rest");
            let under_way = self.service.fleet.store.service_wide().rollouts_under_way().await.unwrap();
            let mut moved = 0;
            for (account, id) in under_way.iter().filter(|(account, _)| account == self.account.name()) {
                let scope = self.service.fleet.store.account(account);
                moved += scope.reconcile_rollout(id, |facts| decide(facts, self.now), self.now).await.unwrap();
            }
            // A look may change a rollout without moving a device.
            quiet = if moved == 0 { quiet + 1 } else { 0 };
            if quiet > 2 {
                return;
            }
        }
    }

    async fn act(&mut self, deed: &Deed) {
        self.now = UnixSeconds(self.now.0 + 30);
        match *deed {
            Deed::Start { version, only, priority, again, wave } => {
                let audience = match only {
                    Some(n) => Audience::Devices(vec![self.devices[n].clone()]),
                    None => Audience::All,
                };
                let waves = if wave { vec![Wave::Count(1)] } else { Vec::new() };
                let retries = Retries { most: again, first_delay_s: 10 };
                let policy = Policy { waves, retries, hold_after: 0, ..Policy::default() };
                self.start(audience, (version, priority), policy).await;
            }
            Deed::Act(n, action) => {
                if let Some(id) = self.rollouts.get(n).cloned() {
                    // Out of turn it is refused, and nothing has happened.
                    drop(self.account.act_on_rollout(&id, action, (None, "t1"), self.now).await);
                }
            }
            Deed::Work(n, phase) => self.work(n, phase).await,
            Deed::Connect(n, on) => self.connect(n, on).await,
        }
        self.settle().await;
    }

    /// A rollout that is started now reaches every device, whatever happened before.
    async fn reach_everybody(&mut self) {
        for n in 0..DEVICES {
            self.connect(n, true).await;
        }
        for row in self.rows().await {
            if row.wanted.priority > 50 && !row.state.is_end() {
                let abort = self.account.act_on_rollout(&row.id, RolloutAction::Abort, (None, "t1"), self.now).await;
                abort.unwrap();
            }
        }
        let policy = Policy { hold_after: 0, closes_at_start: true, ..Policy::default() };
        let last = self.start(Audience::All, (2, 50), policy).await;
        for _ in 0..10 {
            self.now = UnixSeconds(self.now.0 + 3600);
            self.settle().await;
            for n in 0..DEVICES {
                self.work(n, Phase::Succeeded).await;
            }
        }
        self.settle().await;
        let counts = self.account.rollout_counts(&last).await.unwrap();
        let good = counts.of(&[DeviceState::Succeeded, DeviceState::Skipped]);
        assert_eq!(good, DEVICES as u64, "some devices are locked out: {counts:?} of {:#?}", self.rows().await);
        let wanted = self.account.release(&VERSIONS[2].parse().unwrap()).await.unwrap().digest;
        assert!(self.devices.iter().all(|d| self.running.get(d) == Some(&wanted)), "{:?}", self.running);
    }
}

#[test]
fn no_order_of_starts_pauses_aborts_and_completions_locks_a_device_out() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = runtime.block_on(TestService::start());
    let case = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 16, failure_persistence: None, ..Config::default() });
    let deeds = prop::collection::vec(deed(), 1..16);
    let ran = runner.run(&deeds, |deeds| {
        case.set(case.get() + 1);
        runtime.block_on(async {
            let mut world = World::new(&service, &format!("case-{}", case.get())).await;
            for deed in &deeds {
                world.act(deed).await;
            }
            world.reach_everybody().await;
        });
        Ok(())
    });
    ran.unwrap();
}
