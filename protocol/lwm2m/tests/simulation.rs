//! Client against server in virtual time, over a link that breaks where the test says: whatever is lost, both sides converge.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a world that breaks its own rules should stop the test"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use protocol_lwm2m::{
    client::{self, Client, DialFailure, ObjectError, Objects, Reading, Target, WriteMode},
    coap::{Code, ContentFormat, Limits, Message, tcp},
    formats::{Entry, Value},
    object::{Accounts, Path, SecurityAccount, ServerAccount, ids},
    server::{self, BootstrapPlan, Content, Decision, Operation, Question, Session},
    time::Millis,
};

/// SplitMix64, so that a seed says everything about a run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A device with the release object and nothing behind it.
#[derive(Default)]
struct Device {
    desired: BTreeMap<u16, String>,
    phase: String,
    executed: Vec<Path>,
}

impl Objects for Device {
    fn objects(&self) -> Vec<u16> {
        vec![ids::DEVICE, ids::RELEASE]
    }
    fn instances(&self, _: u16) -> Vec<u16> {
        vec![0]
    }
    fn read(&self, object: u16, _: u16, resource: u16) -> Result<Reading, ObjectError> {
        match (object, resource) {
            (ids::DEVICE, 0) => Ok("Acme".into()),
            (ids::DEVICE, 9) => Ok(Value::Integer(80).into()),
            (ids::DEVICE, 11) => Ok(Reading::Multiple(vec![(0, Value::Integer(0))])),
            (ids::DEVICE, 16) => Ok("T".into()),
            (ids::RELEASE, 0..=2) => Ok(self.desired.get(&resource).cloned().unwrap_or_default().into()),
            (ids::RELEASE, 3) => Ok(self.phase.clone().into()),
            (ids::RELEASE, 12) => Ok(Reading::Multiple((0..40).map(|id| (id, Value::from("x".repeat(100)))).collect())),
            _ => Err(ObjectError::NotFound),
        }
    }
    fn write(&mut self, _: &Path, _: WriteMode, entries: &[Entry]) -> Result<(), ObjectError> {
        for entry in entries {
            let text = entry.value.as_str().ok_or(ObjectError::NotAllowed)?;
            self.desired.insert(entry.path.ids()[2], text.to_owned());
        }
        Ok(())
    }
    fn execute(&mut self, object: u16, instance: u16, resource: u16, _: &str) -> Result<(), ObjectError> {
        self.executed.push(Path::resource(object, instance, resource));
        Ok(())
    }
    fn keep_accounts(&mut self, _: &Accounts) -> Result<(), ObjectError> {
        Ok(())
    }
}

fn accounts() -> Accounts {
    let security = SecurityAccount {
        server_public_key: vec![7; 900],
        ..SecurityAccount::managed("coaps+tcp://fleet.example:5685".to_owned(), 1)
    };
    let server = ServerAccount { lifetime: 300, ..ServerAccount::default() };
    Accounts { security: [(1, security)].into(), servers: [(1, server)].into() }
}

const DESIRED: &str = "releases/1.1.0.json";
const EST: u64 = 1;
const OBSERVE: u64 = 10;
const WRITE: u64 = 11;

/// What a message in the air is, as bytes, and when it lands.
type Air = VecDeque<(Millis, Vec<u8>)>;

/// One end of a stream.
struct End {
    decoder: tcp::Decoder,
}

impl End {
    fn new(limits: &Limits) -> Self {
        Self { decoder: tcp::Decoder::new(usize::try_from(limits.max_message).unwrap()) }
    }
}

/// One connection that stands.
struct Wire {
    session: Session,
    is_bootstrap: bool,
    to_server: Air,
    to_client: Air,
    server_end: End,
    client_end: End,
    server_wakes: Option<Millis>,
}

/// Everything there is.
struct World {
    now: Millis,
    dice: Dice,
    client: Client,
    device: Device,
    client_wakes: Option<Millis>,
    dialing: Option<(Millis, Target)>,
    wire: Option<Wire>,
    limits: (Limits, Limits),
    /// The link breaks when this many messages have landed.
    break_at: Vec<u64>,
    /// One message in so many breaks the link; 0 for never.
    break_chance: u64,
    /// One dial in so many fails; 0 for never.
    refuse_chance: u64,
    landed: u64,
    /// What the service knows.
    written: bool,
    reported: Option<String>,
    bootstraps: u32,
    registrations: u32,
    est_answer: Option<Message>,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut settings = client::Settings::new("gate-42".parse().unwrap(), seed);
        let small = Limits { max_message: 1152, ..Limits::default() };
        settings.limits = if seed.is_multiple_of(2) { Limits::default() } else { small };
        let server_limits = if seed.is_multiple_of(3) { small } else { Limits::default() };
        Self {
            now: Millis(0),
            dice: Dice(seed),
            limits: (settings.limits, server_limits),
            client: Client::new(settings, None),
            device: Device { phase: "idle".to_owned(), ..Device::default() },
            client_wakes: None,
            dialing: None,
            wire: None,
            break_at: Vec::new(),
            break_chance: 0,
            refuse_chance: 0,
            landed: 0,
            written: false,
            reported: None,
            bootstraps: 0,
            registrations: 0,
            est_answer: None,
            log: Vec::new(),
        }
    }

    fn client(&mut self, fact: client::Fact) {
        self.log.push(format!("{} client hears {}", self.now.0, short(&fact)));
        let steps = self.client.on(self.now, fact, &mut self.device);
        for step in steps {
            self.log.push(format!("{} client: {}", self.now.0, short(&step)));
            match step {
                client::Step::Send(message) => self.send(&message, true),
                client::Step::Dial(target) => {
                    assert!(self.wire.is_none(), "dials while a connection stands");
                    let at = self.now.plus(Duration::from_millis(10 + self.dice.roll(100)));
                    self.dialing = Some((at, target));
                }
                client::Step::Close => {
                    self.dialing = None;
                    // What was written before still arrives.
                    self.flush_to_server();
                    self.break_link(false);
                }
                client::Step::WakeAt(at) => self.client_wakes = Some(at),
                client::Step::BootstrapDone(accounts) => {
                    assert_eq!(accounts, self::accounts());
                    let request =
                        Message::new(Code::POST).path("/.well-known/est/sen").accept(ContentFormat::PKIX_CERT);
                    let request = request.content(ContentFormat::PKCS10, vec![0x30; 5000]);
                    self.client(client::Fact::Request { id: EST, request });
                }
                client::Step::Answered { id, result } => {
                    assert_eq!(id, EST);
                    match result {
                        Ok(response) => {
                            assert_eq!((response.code, response.payload.len()), (Code::CHANGED, 3000));
                            self.est_answer = Some(response);
                            self.client(client::Fact::Enrolled);
                        }
                        Err(_) => self.client(client::Fact::EnrolFailed),
                    }
                }
                client::Step::Registered
                | client::Step::Unregistered
                | client::Step::Refused { .. }
                | client::Step::AccountsChanged(_)
                | client::Step::Stopped => {}
            }
        }
    }

    fn server(&mut self, fact: server::Fact) {
        let Some(wire) = &mut self.wire else { return };
        self.log.push(format!("{} server hears {}", self.now.0, short(&fact)));
        let steps = wire.session.on(self.now, fact);
        for step in steps {
            self.log.push(format!("{} server: {}", self.now.0, short(&step)));
            match step {
                server::Step::Send(message) => self.send(&message, false),
                server::Step::Close => {
                    self.flush_to_client();
                    self.break_link(true);
                }
                server::Step::WakeAt(at) => {
                    if let Some(wire) = &mut self.wire {
                        wire.server_wakes = Some(at);
                    }
                }
                server::Step::Ask { ask, question } => {
                    let decision = self.decide(&question);
                    self.server(server::Fact::Decided { ask, decision });
                }
                server::Step::Bootstrapped => self.bootstraps += 1,
                server::Step::Registered(registration) => {
                    assert_eq!(registration.lifetime, 300);
                    assert!(registration.paths.contains(&Path::instance(ids::RELEASE, 0)));
                    self.registrations += 1;
                    self.written = false;
                    self.reconcile();
                }
                server::Step::Notified { id, entries, .. } => {
                    assert_eq!(id, OBSERVE);
                    self.learn(&entries);
                }
                server::Step::Answered { id: OBSERVE, result: Ok(answer) } => match answer.content {
                    Content::Entries(entries) => self.learn(&entries),
                    other => panic!("an observation answered {other:?}"),
                },
                server::Step::Answered { id: WRITE, result } => self.written |= result.is_ok(),
                server::Step::Answered { .. }
                | server::Step::BootstrapFailed(_)
                | server::Step::Updated(_)
                | server::Step::Deregistered(_)
                | server::Step::ObservationEnded { .. } => {}
            }
        }
    }

    fn decide(&self, question: &Question) -> Decision {
        let is_bootstrap = self.wire.as_ref().is_some_and(|wire| wire.is_bootstrap);
        match question {
            Question::Bootstrap { endpoint, .. } if is_bootstrap => {
                assert_eq!(endpoint.as_ref().map(|name| name.as_str()), Some("gate-42"));
                Decision::Bootstrap(BootstrapPlan {
                    delete: vec![Path::ROOT],
                    accounts: accounts(),
                    format: if self.limits.1.max_message == 1152 {
                        ContentFormat::TLV
                    } else {
                        ContentFormat::SENML_CBOR
                    },
                })
            }
            Question::Register(_) if !is_bootstrap => Decision::Register { location: "5a".to_owned() },
            Question::Update(_) => Decision::Allow,
            Question::Other(request) => {
                assert_eq!((request.uri_path().as_str(), request.payload.len()), ("/.well-known/est/sen", 5000));
                Decision::Respond(Message::new(Code::CHANGED).content(ContentFormat::PKIX_CERT, vec![0x31; 3000]))
            }
            _ => Decision::Refuse { code: Code::FORBIDDEN, diagnostic: "wrong port".to_owned() },
        }
    }

    /// Observes, and writes what is wanted: done at each registration, as the service would.
    fn reconcile(&mut self) {
        let path = Path::instance(ids::RELEASE, 0);
        let accept = Some(ContentFormat::SENML_CBOR);
        self.server(server::Fact::Request { id: OBSERVE, operation: Operation::Observe { path, accept } });
        let entries = vec![Entry::new(Path::resource(ids::RELEASE, 0, 0), DESIRED)];
        let operation = Operation::Write { path, mode: WriteMode::Partial, entries, format: ContentFormat::SENML_CBOR };
        self.server(server::Fact::Request { id: WRITE, operation });
    }

    fn learn(&mut self, entries: &[Entry]) {
        assert_eq!(entries.iter().filter(|entry| entry.path.ids()[2] == 12).count(), 40, "a notification came in part");
        let phase = entries.iter().find(|entry| entry.path == Path::resource(ids::RELEASE, 0, 3));
        self.reported = phase.and_then(|entry| entry.value.as_str()).map(str::to_owned);
    }

    fn send(&mut self, message: &Message, to_server: bool) {
        let limit = if to_server { self.limits.1.max_message } else { self.limits.0.max_message };
        assert!(tcp::size(message) <= usize::try_from(limit).unwrap(), "{message:?} is larger than the peer takes");
        let delay = Duration::from_millis(1 + self.dice.roll(40));
        let Some(wire) = &mut self.wire else { return };
        let air = if to_server { &mut wire.to_server } else { &mut wire.to_client };
        let mut bytes = Vec::new();
        tcp::encode(message, &mut bytes);
        // A stream keeps its order.
        let at = self.now.plus(delay).max(air.back().map_or(Millis(0), |(at, _)| *at));
        air.push_back((at, bytes));
    }

    fn land(&mut self, bytes: &[u8], at_server: bool) {
        self.landed += 1;
        let breaks =
            self.break_at.contains(&self.landed) || (self.break_chance > 0 && self.dice.roll(self.break_chance) == 0);
        if breaks {
            self.log.push(format!("{} the link breaks", self.now.0));
            self.server(server::Fact::Lost);
            self.break_link(true);
            return;
        }
        let split = usize::try_from(self.dice.roll(1 + u64::try_from(bytes.len()).unwrap())).unwrap();
        let (head, tail) = bytes.split_at(split);
        for piece in [head, tail] {
            let Some(wire) = &mut self.wire else { return };
            let end = if at_server { &mut wire.server_end } else { &mut wire.client_end };
            end.decoder.push(piece);
            while let Some(wire) = &mut self.wire {
                let end = if at_server { &mut wire.server_end } else { &mut wire.client_end };
                match end.decoder.next_message().expect("both sides write well-formed messages") {
                    None => break,
                    Some(message) if at_server => self.server(server::Fact::Received(message)),
                    Some(message) => self.client(client::Fact::Received(message)),
                }
            }
        }
    }

    fn flush_to_server(&mut self) {
        while let Some((_, bytes)) = self.wire.as_mut().and_then(|wire| wire.to_server.pop_front()) {
            let end = self.wire.as_mut().map(|wire| {
                wire.server_end.decoder.push(&bytes);
                wire.server_end.decoder.next_message().expect("well-formed")
            });
            if let Some(Some(message)) = end {
                self.server(server::Fact::Received(message));
            }
        }
        self.server(server::Fact::Lost);
    }

    fn flush_to_client(&mut self) {
        while let Some((_, bytes)) = self.wire.as_mut().and_then(|wire| wire.to_client.pop_front()) {
            let message = self.wire.as_mut().map(|wire| {
                wire.client_end.decoder.push(&bytes);
                wire.client_end.decoder.next_message().expect("well-formed")
            });
            if let Some(Some(message)) = message {
                self.client(client::Fact::Received(message));
            }
        }
    }

    fn break_link(&mut self, tell_client: bool) {
        if self.wire.take().is_some() && tell_client {
            self.client(client::Fact::Lost);
        }
    }

    /// Does the next thing that is due; false if nothing ever is.
    fn tick(&mut self) -> bool {
        let dial = self.dialing.as_ref().map(|(at, _)| *at);
        let to_server = self.wire.as_ref().and_then(|wire| wire.to_server.front()).map(|(at, _)| *at);
        let to_client = self.wire.as_ref().and_then(|wire| wire.to_client.front()).map(|(at, _)| *at);
        let server_wakes = self.wire.as_ref().and_then(|wire| wire.server_wakes);
        let all = [dial, to_server, to_client, self.client_wakes, server_wakes];
        let Some(next) = all.into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        if dial == Some(next) {
            self.dialed();
        } else if to_server == Some(next) {
            let air = self.wire.as_mut().and_then(|wire| wire.to_server.pop_front());
            self.land(&air.unwrap().1, true);
        } else if to_client == Some(next) {
            let air = self.wire.as_mut().and_then(|wire| wire.to_client.pop_front());
            self.land(&air.unwrap().1, false);
        } else if self.client_wakes == Some(next) {
            self.client_wakes = None;
            self.client(client::Fact::TimePassed);
        } else {
            if let Some(wire) = &mut self.wire {
                wire.server_wakes = None;
            }
            self.server(server::Fact::TimePassed);
        }
        true
    }

    fn dialed(&mut self) {
        let Some((_, target)) = self.dialing.take() else { return };
        if self.refuse_chance > 0 && self.dice.roll(self.refuse_chance) == 0 {
            let why = if self.dice.roll(2) == 0 { DialFailure::Unreachable } else { DialFailure::Unauthorized };
            return self.client(client::Fact::DialFailed(why));
        }
        let mut settings = server::Settings::new(self.dice.roll(u64::MAX));
        settings.limits = self.limits.1;
        self.wire = Some(Wire {
            session: Session::new(settings),
            is_bootstrap: target == Target::Bootstrap,
            to_server: Air::new(),
            to_client: Air::new(),
            server_end: End::new(&self.limits.1),
            client_end: End::new(&self.limits.0),
            server_wakes: None,
        });
        self.server(server::Fact::Opened);
        self.client(client::Fact::Connected);
    }

    fn has_converged(&self) -> bool {
        self.client.is_registered()
            && self.written
            && self.device.desired.get(&0).map(String::as_str) == Some(DESIRED)
            && self.reported.as_deref() == Some(self.device.phase.as_str())
    }

    /// Runs until both sides agree; panics with the story if they do not within a day.
    fn converge(&mut self, seed: u64) {
        let limit = self.now.plus(Duration::from_hours(24));
        while !self.has_converged() {
            let goes_on = self.now < limit && self.tick();
            let story = || self.log.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
            assert!(goes_on, "seed {seed}: not converged after {} ms\n{}", self.now.0, story());
        }
    }
}

/// The first 200 bytes of how `what` prints; the rest is not even formatted.
fn short(what: &impl std::fmt::Debug) -> String {
    struct Head(String);
    impl std::fmt::Write for Head {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.push_str(text);
            if self.0.len() > 200 { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut head = Head(String::new());
    let whole = std::fmt::write(&mut head, format_args!("{what:?}")).is_ok();
    head.0 + if whole { "" } else { "…" }
}

fn start(seed: u64) -> World {
    let mut world = World::new(seed);
    world.client(client::Fact::Started);
    world
}

#[test]
fn a_new_device_bootstraps_enrols_registers_and_hears_what_is_wanted() {
    for seed in 0..6 {
        let mut world = start(seed);
        world.converge(seed);
        assert_eq!((world.bootstraps, world.registrations), (1, 1), "seed {seed}");
        assert!(world.now < Millis(5000), "seed {seed} took {} ms", world.now.0);
    }
}

#[test]
fn losing_the_connection_at_any_one_message_delays_but_does_not_prevent() {
    for seed in 0..6 {
        let mut clean = start(seed);
        clean.converge(seed);
        for at in 1..=clean.landed {
            let mut world = start(seed);
            world.break_at = vec![at];
            world.converge(seed);
            assert!(world.now < Millis(600_000), "seed {seed}, break at {at}: took {} ms", world.now.0);
        }
    }
}

#[test]
fn any_storm_of_losses_and_refusals_that_ends_is_survived() {
    for seed in 0..300 {
        let mut world = start(seed);
        world.break_chance = 5 + seed % 40;
        world.refuse_chance = seed % 5;
        for _ in 0..400 {
            assert!(world.tick(), "seed {seed}: nothing will ever happen again");
        }
        (world.break_chance, world.refuse_chance) = (0, 0);
        world.converge(seed);
    }
}

#[test]
fn a_change_on_the_device_reaches_the_service_after_every_loss() {
    for seed in 0..100 {
        let mut world = start(seed);
        world.converge(seed);
        for (round, phase) in ["downloading", "installing", "trial", "succeeded"].into_iter().enumerate() {
            world.device.phase = phase.to_owned();
            if round % 2 == 1 {
                world.break_at = vec![world.landed + 1 + u64::try_from(round).unwrap()];
            }
            world.client(client::Fact::Changed(Path::resource(ids::RELEASE, 0, 3)));
            world.converge(seed);
        }
    }
}

#[test]
fn a_registration_that_is_not_disturbed_lives_on_by_its_updates() {
    let mut world = start(3);
    world.converge(3);
    let day = world.now.plus(Duration::from_hours(24));
    while world.now < day {
        assert!(world.tick());
    }
    assert_eq!((world.registrations, world.bootstraps), (1, 1));
    assert!(world.client.is_registered());
}

#[test]
fn a_client_that_falls_silent_expires_at_the_server_and_a_stopped_one_says_so() {
    let mut world = start(4);
    world.converge(4);
    // The client's power is cut: it hears nothing and its timer never fires.
    world.client_wakes = None;
    let mut steps = Vec::new();
    for _ in 0..10 {
        let wire = world.wire.as_mut().unwrap();
        let Some(at) = wire.server_wakes.take() else { break };
        steps.extend(wire.session.on(at, server::Fact::TimePassed));
        let wake =
            steps.iter().rev().find_map(|step| if let server::Step::WakeAt(at) = step { Some(*at) } else { None });
        wire.server_wakes = wake;
        if steps.contains(&server::Step::Close) {
            break;
        }
    }
    assert!(steps.contains(&server::Step::Deregistered(server::Ended::Expired)), "{steps:?}");

    let mut world = start(5);
    world.converge(5);
    world.client(client::Fact::Stop);
    while world.wire.is_some() {
        assert!(world.tick());
    }
    assert!(
        world.log.iter().any(|line| line.ends_with("server: Deregistered(Deregistered)")),
        "{}",
        world.log.join("\n")
    );
    assert!(world.log.iter().any(|line| line.ends_with("client: Stopped")));
}
