//! A month of a fleet: two accounts whose devices have the same names, releases good and bad, rollouts with every kind of rule, and
//! whatever may happen to networks, clocks, disks, devices and the service. The last days are calm, so that everything can come to its
//! end.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use device_agent::{identity::Identity, key_store::KeyStore, state::StateFolder, tls::provider};
use protocol_types::{Digest, EndpointName, RolloutId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    account::Account,
    device::{Body, Command, Plant, Site, live},
    ledger::{Ledger, Rule, Violation},
    machine::Machine,
    network::Switch,
    operator::Operator,
    random::Random,
    service::Service,
    tasks::{Tasks, Waits},
    verdict,
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The plan below is one of so many days; a shorter run has the same plan in less time.
const PLANNED_DAYS: f64 = 30.0;
/// When the last faults happen, of the planned days.
const CALM: f64 = 25.0;

/// Polls of tasks that a day of one device may cost: one wake in a minute would be more.
const POLLS: u64 = 1000;
/// What the plan costs, however few days it is pressed into, in such days.
const PLAN: u64 = 3;

/// A fault that a test plants in the world around the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// The service looks at no rollout.
    NoReconciler,
    /// The service takes a device for the one of the same name in the other account.
    TakenForAnother,
}

/// What a simulation is about.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) days: u64,
    pub(crate) devices: usize,
    /// A fault in the first device.
    pub(crate) plant: Option<Plant>,
    pub(crate) world: Option<World>,
    /// Where the trace goes.
    pub(crate) trace: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<Violation>,
    pub(crate) lines: u64,
    pub(crate) digest: Digest,
    /// How often tasks ran for each device.
    pub(crate) polls: u64,
    /// How often they may.
    pub(crate) most_polls: u64,
    pub(crate) summary: String,
}

/// Runs a simulation on a thread and a machine of its own.
pub(crate) fn run(settings: Settings) -> Outcome {
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(move || on_this_thread(settings));
    thread.expect("a thread").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn on_this_thread(settings: Settings) -> Outcome {
    let folder = Service::folder();
    let machine = Machine::install(settings.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The barrier of the tasks relies on one thread that keeps the order.
        .max_blocking_threads(1)
        .build()
        .expect("a runtime");
    let (tasks, is_over) = (Tasks::default(), Rc::new(Cell::new(false)));
    let outcome = Rc::new(RefCell::new(None));
    let director = Director::new(settings, machine.clone(), tasks.clone(), folder);
    let (over, out) = (is_over.clone(), outcome.clone());
    tasks.spawn(Waits::Threads, async move {
        *out.borrow_mut() = Some(Box::pin(director.direct()).await);
        over.set(true);
    });
    runtime.block_on(async {
        tasks.run(machine, is_over).await;
        tasks.clear();
    });
    Machine::remove();
    let outcome = outcome.borrow_mut().take();
    outcome.expect("the director has spoken")
}

/// Whoever lets things happen. Cheap to clone.
#[derive(Clone)]
struct Director {
    settings: Rc<Settings>,
    machine: Rc<Machine>,
    tasks: Tasks,
    service: Service,
    is_calm: Rc<Cell<bool>>,
}

/// The parts of a running world.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) accounts: Vec<Account>,
    pub(crate) bodies: Vec<Rc<Body>>,
    pub(crate) ledger: Ledger,
    pub(crate) service: Service,
    switch: Switch,
    commands: Rc<Vec<mpsc::UnboundedSender<Command>>>,
}

impl Director {
    fn new(settings: Settings, machine: Rc<Machine>, tasks: Tasks, folder: TempDir) -> Self {
        let service = Service::new(machine.clone(), tasks.clone(), folder);
        if settings.world == Some(World::NoReconciler) {
            service.forget_rollouts();
        }
        Self { settings: Rc::new(settings), machine, tasks, service, is_calm: Rc::default() }
    }

    /// A moment of the plan, as time since the beginning.
    fn moment(&self, day: f64) -> Duration {
        let days = u32::try_from(self.settings.days).map_or(PLANNED_DAYS, f64::from);
        Duration::from_secs(DAY).mul_f64(day * days / PLANNED_DAYS)
    }

    async fn until(&self, day: f64) {
        sleep(self.moment(day).saturating_sub(self.machine.passed())).await;
    }

    async fn direct(self) -> Outcome {
        let fleet = self.open().await;
        let stop = (self.moment(CALM), self.moment(PLANNED_DAYS));
        for body in &fleet.bodies {
            self.tasks.spawn(Waits::Nothing, self.clone().trouble(fleet.clone(), body.place()));
        }
        for (number, account) in fleet.accounts.iter().enumerate() {
            self.tasks.spawn(Waits::Nothing, self.clone().release(fleet.clone(), account.clone()));
            self.tasks.spawn(Waits::Nothing, self.clone().administer(fleet.clone(), number));
        }
        self.tasks.spawn(Waits::Threads, self.clone().kill(fleet.ledger.clone()));
        self.plant(&fleet).await;
        sleep(stop.0.saturating_sub(self.machine.passed())).await;
        self.calm(&fleet);
        sleep(stop.1.saturating_sub(self.machine.passed())).await;
        Box::pin(verdict::judge(&fleet)).await;
        let (lines, digest) = fleet.ledger.seal();
        let summary = format!(
            "seed {}: {} devices, {} days, {} lives of the service, {} connections, {} polls, {:?}",
            self.settings.seed,
            fleet.bodies.len(),
            self.settings.days,
            self.service.lives(),
            fleet.switch.connections(),
            self.tasks.polls(),
            fleet.ledger.counts(),
        );
        self.service.die().await;
        let polls = self.tasks.polls() / u64::try_from(fleet.bodies.len().max(1)).unwrap_or(u64::MAX);
        let most_polls = POLLS * (self.settings.days + PLAN);
        Outcome { violations: fleet.ledger.violations(), lines, digest, polls, most_polls, summary }
    }

    /// Starts the service, opens the accounts and makes the devices.
    async fn open(&self) -> Fleet {
        let Settings { seed, devices, plant, trace, .. } = &*self.settings;
        self.service.start().await;
        let first = std::fs::read_to_string(self.service.data_dir().join("first-token")).expect("a first token");
        let first = Operator::new(self.service.clone(), first.trim().to_owned());
        let token = first.post("/tokens", &json!({ "name": "simulation", "scopes": ["admin"] }), None).await;
        let administrator = first.with_token(token["secret"].as_str().expect("a token"));
        let mut accounts = Vec::new();
        for name in ["north", "south"] {
            accounts.push(Account::open(&administrator, name).await);
        }
        let owner = |place: usize| usize::from(place % 5 >= 3);
        let endpoint = |place: usize| EndpointName::new(format!("gate-{}", place / 5 * 3 + place % 5 % 3));
        let name = |place: usize| format!("{}/{}", accounts[owner(place)].name(), endpoint(place).expect("a name"));
        let ledger = Ledger::new(self.machine.clone(), (0..*devices).map(name), trace.as_deref());
        let switch = Switch::new(self.machine.clone(), (self.tasks.clone(), self.service.clone()), *devices, *seed);
        let (provider, folder) = (provider(), self.service.data_dir().join("devices"));
        let (mut bodies, mut commands) = (Vec::new(), Vec::new());
        for place in 0..*devices {
            let site = Site {
                place,
                seed: *seed,
                switch: switch.clone(),
                ledger: ledger.clone(),
                provider: provider.clone(),
                plant: plant.filter(|_| place == 0),
            };
            let account = accounts[owner(place)].clone();
            bodies.push(Body::new(account, endpoint(place).expect("a name"), &folder, site));
            commands.push(self.power_on_later(&bodies[place]));
        }
        Fleet { accounts, bodies, ledger, service: self.service.clone(), switch, commands: Rc::new(commands) }
    }

    /// Most devices come in the first hours, some in the course of the month.
    fn power_on_later(&self, body: &Rc<Body>) -> mpsc::UnboundedSender<Command> {
        let (sender, commands) = mpsc::unbounded_channel();
        let mut random = Random::of(self.settings.seed, "joining", body.place());
        let is_late = random.chance(100) && body.place() > 0;
        let last = if is_late { self.moment(20.0) } else { self.moment(0.3) };
        let wait = Duration::from_millis(random.between(0, u64::try_from(last.as_millis()).unwrap_or(1)));
        let body = body.clone();
        self.tasks.spawn(Waits::Nothing, async move {
            sleep(wait).await;
            live(body, commands).await;
        });
        sender
    }

    /// What happens to one device.
    async fn trouble(self, fleet: Fleet, place: usize) {
        let mut random = Random::of(self.settings.seed, "trouble", place);
        let sleeps_much = random.chance(100);
        let mean = self.moment(if sleeps_much { 1.0 } else { 4.0 }).as_secs();
        let order = |command| fleet.commands[place].send(command).expect("the device lives");
        loop {
            sleep(Duration::from_secs(random.between(mean / 4, mean * 7 / 4))).await;
            if self.is_calm.get() {
                return;
            }
            if !fleet.bodies[place].is_on() {
                // What is done to it now would wait for its power, pile up, and happen in the calm days.
                continue;
            }
            let time = |random: &mut Random, least, most| Duration::from_secs(random.between(least, most));
            match random.between(0, 100) {
                _ if sleeps_much => order(Command::Off(time(&mut random, mean / 2, mean * 4))),
                0..25 => {
                    fleet.ledger.of(place, "loses its connections");
                    fleet.switch.cut(place);
                }
                25..50 => {
                    fleet.ledger.of(place, "is cut off");
                    fleet.switch.part(place, time(&mut random, 60, 4 * HOUR));
                }
                50..62 => order(Command::Cut(time(&mut random, 1, 2 * HOUR))),
                62..82 => order(Command::CutAtChange(random.between(1, 120))),
                82..92 => order(Command::Off(time(&mut random, 600, 20 * HOUR))),
                _ => {
                    let wrong = [-1_798_000_000, 2_272_000_000, -30 * 86_400, 400 * 86_400];
                    order(Command::Clock(wrong[random.index(wrong.len())]));
                    sleep(time(&mut random, HOUR, 30 * HOUR)).await;
                    order(Command::Clock(0));
                }
            }
        }
    }

    /// Kills the service now and then, and starts it again.
    async fn kill(self, ledger: Ledger) {
        let mut random = Random::of(self.settings.seed, "service", 0);
        let mean = self.moment(5.0).as_secs();
        loop {
            sleep(Duration::from_secs(random.between(mean / 4, mean * 7 / 4))).await;
            if self.is_calm.get() {
                return;
            }
            if random.chance(700) {
                ledger.note("the service is killed");
                self.service.die().await;
            } else {
                ledger.note("the service stops");
                self.service.stop().await;
            }
            ledger.note("the service is down");
            sleep(Duration::from_secs(random.between(2, 1200))).await;
            self.service.start().await;
            ledger.note("the service is back");
        }
    }

    /// Publishes and rolls out.
    async fn release(self, fleet: Fleet, account: Account) {
        let all = json!("all");
        let rollout = |version: &str, more: Value| {
            let mut body = json!({ "release": version, "audience": all });
            let fields = more.as_object().cloned().unwrap_or_default();
            body.as_object_mut().expect("an object").extend(fields);
            body
        };
        self.until(1.0).await;
        account.publish("1.1.0", (1, false), 0).await;
        let policy = json!({ "waves": [{ "count": 2 }, { "percent": 20 }], "failure_threshold": { "percent": 25 },
                             "retries": { "most": 2, "first_delay_s": 3600 }, "close_audience": true });
        self.start(&fleet, &account, rollout("1.1.0", policy)).await;

        self.until(5.0).await;
        account.publish("1.2.0", (1, false), 300).await;
        let policy = json!({ "waves": [{ "percent": 30 }], "failure_threshold": { "percent": 40 },
                             "retries": { "most": 1, "first_delay_s": 1800 } });
        self.start(&fleet, &account, rollout("1.2.0", policy)).await;

        self.until(7.0).await;
        account.publish("1.2.1", (1, false), 0).await;
        let policy = json!({ "window": { "from": "01:00", "until": "07:00", "zone": "Europe/Oslo" }, "max_in_flight": 25,
                             "failure_threshold": { "percent": 50 }, "retries": { "most": 3, "first_delay_s": 600 } });
        self.start(&fleet, &account, rollout("1.2.1", policy)).await;

        self.until(11.0).await;
        account.publish("2.0.0", (2, true), 0).await;
        let policy = json!({ "rate": { "per_hour": 20 }, "failure_threshold": { "percent": 50 }, "close_audience": true,
                             "retries": { "most": 2, "first_delay_s": 900 } });
        self.start(&fleet, &account, rollout("2.0.0", policy)).await;

        self.until(15.0).await;
        // Nobody may go back below the floor: every device refuses, and the threshold stops it.
        let policy = json!({ "failure_threshold": { "count": 5 }, "priority": 70 });
        self.start(&fleet, &account, rollout("1.2.1", policy)).await;

        self.until(18.0).await;
        account.publish("2.1.0", (2, false), 200).await;
        let policy = json!({ "waves": [{ "percent": 25 }], "failure_threshold": { "percent": 15 }, "on_failure": "return",
                             "retries": { "most": 1, "first_delay_s": 600 } });
        self.start(&fleet, &account, rollout("2.1.0", policy)).await;

        self.until(21.0).await;
        account.publish("2.2.0", (2, false), 50).await;
        let policy = json!({ "failure_threshold": { "percent": 10 }, "on_failure": "pause", "priority": 60,
                             "retries": { "most": 2, "first_delay_s": 1200 } });
        self.start(&fleet, &account, rollout("2.2.0", policy)).await;

        self.until(22.0).await;
        account.publish("2.3.0", (2, false), 0).await;
        let policy = json!({ "failure_threshold": { "percent": 60 }, "priority": 60,
                             "retries": { "most": 3, "first_delay_s": 1200 } });
        self.start(&fleet, &account, rollout("2.3.0", policy)).await;
    }

    /// Makes and starts a rollout; a request that is repeated is made once.
    async fn start(&self, fleet: &Fleet, account: &Account, body: Value) {
        let version = body["release"].as_str().unwrap_or_default();
        let key = format!("{version}-{}", self.machine.passed().as_millis());
        let made = account.operator().post("/rollouts", &body, Some(&key)).await;
        let id: RolloutId = serde_json::from_value(made["id"].clone()).expect("a rollout id");
        let retries = body["retries"]["most"].as_u64().and_then(|most| u32::try_from(most).ok()).unwrap_or(0);
        fleet.ledger.allow(account.name().as_str(), &id, retries);
        fleet.ledger.note(&format!("{} rolls out {version} as {id}", account.name()));
        let (status, answer) = account.operator().try_post(&format!("/rollouts/{id}/start"), None, None).await;
        assert!(status.is_success(), "{id} does not start: {status} {answer}");
    }

    /// Suspends and resumes devices, takes one out of service, and lets rollouts go on that paused.
    async fn administer(self, fleet: Fleet, number: usize) {
        let account = fleet.accounts[number].clone();
        let own: Vec<Rc<Body>> =
            fleet.bodies.iter().filter(|it| it.account().name() == account.name()).cloned().collect();
        let mut random = Random::of(self.settings.seed, "operator", number);
        let mean = self.moment(2.0).as_secs();
        let mut decommissioned = self.settings.plant.is_some();
        loop {
            sleep(Duration::from_secs(random.between(mean / 4, mean * 7 / 4))).await;
            if self.is_calm.get() {
                break;
            }
            // The first device is left in peace: faults are planted there.
            let place = 1 + random.index(own.len().saturating_sub(1));
            let Some(body) = own.get(place) else { continue };
            let path = format!("/devices/{}", body.endpoint());
            let why = json!({ "reason": "the simulation wants it so" });
            if !decommissioned && self.machine.passed() > self.moment(12.0) {
                decommissioned = true;
                let (status, _) = account.operator().try_post(&format!("{path}/decommission"), Some(&why), None).await;
                fleet.ledger.of(body.place(), &format!("is taken out of service: {status}"));
                continue;
            }
            let (status, _) = account.operator().try_post(&format!("{path}/suspend"), Some(&why), None).await;
            fleet.ledger.of(body.place(), &format!("is suspended: {status}"));
            sleep(Duration::from_secs(random.between(HOUR, 2 * mean))).await;
            let (status, _) = account.operator().try_post(&format!("{path}/resume"), None, None).await;
            fleet.ledger.of(body.place(), &format!("is resumed: {status}"));
            self.resume(&account, &fleet).await;
        }
        // Failures after the last pause no longer count, so it pauses seldom and each time somebody looks.
        for _ in 0..20 {
            self.resume(&account, &fleet).await;
            sleep(self.moment(0.2)).await;
        }
    }

    async fn resume(&self, account: &Account, fleet: &Fleet) {
        let rollouts = account.operator().get("/rollouts?limit=100").await;
        for rollout in rollouts["items"].as_array().into_iter().flatten() {
            if rollout["state"] == "paused" {
                let id = rollout["id"].as_str().unwrap_or_default();
                let (status, _) = account.operator().try_post(&format!("/rollouts/{id}/resume"), None, None).await;
                fleet.ledger.note(&format!("{} lets {id} go on: {status}", account.name()));
            }
        }
    }

    /// Lets nothing go wrong any more.
    fn calm(&self, fleet: &Fleet) {
        self.is_calm.set(true);
        fleet.ledger.calms();
        fleet.switch.heal();
        for sender in fleet.commands.iter() {
            sender.send(Command::Clock(0)).expect("the device lives");
        }
        if self.service.embedded().is_none() {
            fleet.ledger.note("the service is still down");
        }
    }

    /// Plants what goes wrong in the world.
    async fn plant(&self, fleet: &Fleet) {
        if self.settings.world != Some(World::TakenForAnother) {
            return;
        }
        // By now both have been ordered something.
        self.until(3.0).await;
        let one = &fleet.bodies[0];
        let other = fleet.bodies.iter().find(|it| it.endpoint() == one.endpoint() && it.place() != one.place());
        let other = other.expect("a device of the same name");
        let folder = other.folder();
        let identity = Identity::load(folder, &KeyStore::of(folder, None)).expect("the identity is sound");
        let enrolment = StateFolder::new(folder.state()).enrolment(identity.key()).expect("a sound enrolment");
        // Two that answer at once would be quarantined, so the other one says goodbye first.
        fleet.commands[other.place()].send(Command::Off(Duration::from_secs(4 * HOUR))).expect("the device lives");
        sleep(Duration::from_secs(60)).await;
        fleet.switch.disguise(one.place(), Some(enrolment.expect("it is enrolled by now").chain));
        fleet.switch.cut(one.place());
        sleep(Duration::from_secs(2 * HOUR)).await;
        fleet.switch.disguise(one.place(), None);
        fleet.switch.cut(one.place());
    }
}

impl Fleet {
    /// Notes that a rule does not hold.
    pub(crate) fn broken(&self, rule: Rule, what: String) {
        self.ledger.broken(rule, what);
    }
}
