//! The updater process of a simulated device: the real updater on a disk in memory, a link to the agent that carries real frames, and
//! an `mbl-apps` that has nothing to run.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use device_updater::{
    Peers, Turn, Updater,
    key_store::KeyStore,
    plan::{Fact, Running},
    record::{Origin, Wish},
    storage::Storage,
    trust::{Trust, factory_document},
};
use protocol_types::{
    AppName, Reason, SignedTime, UpdateStatus,
    socket::{
        AgentToUpdater, Fetch, Fetched, FrameReader, Greeting, PROTOCOL, Role, UpdaterToAgent, UpdaterToApps, encode,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{device::Body, disk::FaultyDisk};

/// Without anything to wait for, the clock is looked at this often, as in `device_updater::serve`.
const IDLE: Duration = Duration::from_secs(3600);

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It asks for a restart of the device.
    Restart,
    /// Power failed in the middle of what it did.
    PowerFailed,
}

/// What waits to be said to the agent, and facts that `mbl-apps` answers with.
#[derive(Debug, Default)]
struct Waiting {
    messages: Vec<UpdaterToAgent>,
    facts: Vec<Fact>,
}

/// The peers of one updater.
struct Desk {
    body: Rc<Body>,
    waiting: Rc<RefCell<Waiting>>,
    has_link: Rc<Cell<bool>>,
}

impl Peers for Desk {
    fn fetch(&mut self, origin: Origin, id: u64, what: Fetch) -> bool {
        if origin != Origin::Service || !self.has_link.get() {
            return false;
        }
        self.body.asks(id, &what);
        self.waiting.borrow_mut().messages.push(UpdaterToAgent::Fetch { id, what });
        true
    }

    fn tell_apps(&mut self, message: UpdaterToApps) {
        let fact = match message {
            UpdaterToApps::Prepare { release, .. } => Fact::Prepared { set: release, refused: None },
            UpdaterToApps::Run { release, .. } => Fact::Applications { set: Some(release), statuses: Vec::new() },
            UpdaterToApps::Retain { .. } => return,
        };
        self.waiting.borrow_mut().facts.push(fact);
    }

    fn configure(&mut self, _documents: &[(AppName, Vec<u8>)]) {}

    fn report(&mut self, status: &UpdateStatus) {
        self.body.reports(status);
        self.waiting.borrow_mut().messages.push(UpdaterToAgent::Status(Box::new(status.clone())));
    }

    /// Nobody stands in front of these devices.
    fn answer_reset(&mut self, _refused: Option<Reason>) {}

    fn say_goodbye(&mut self) {
        self.waiting.borrow_mut().messages.push(UpdaterToAgent::Restarting);
    }
}

/// The connection of the agent.
struct Link {
    stream: DuplexStream,
    frames: FrameReader,
    has_greeted: bool,
}

/// What woke the process.
enum Event {
    Connected(DuplexStream),
    Heard(usize),
    TimePassed,
}

/// The process in the system that was booted; agents connect through `agents`.
pub(crate) async fn run(body: Rc<Body>, running: Running, mut agents: mpsc::Receiver<DuplexStream>) -> Ended {
    let Some(mut process) = Process::start(body, running) else { return Ended::PowerFailed };
    let mut piece = vec![0; 16 * 1024];
    loop {
        let until = match process.work() {
            Work::Over(Ended::Restart) => {
                process.speak().await;
                return Ended::Restart;
            }
            Work::Over(Ended::PowerFailed) => return Ended::PowerFailed,
            Work::Waits(until) => until,
        };
        process.speak().await;
        let event = tokio::select! {
            Some(stream) = agents.recv() => Event::Connected(stream),
            read = process.hear(&mut piece) => Event::Heard(read),
            () = sleep_until(until) => Event::TimePassed,
        };
        match event {
            Event::Connected(stream) => process.connected(stream).await,
            Event::Heard(0) => process.disconnected(),
            Event::Heard(read) => process.heard(&piece[..read]),
            Event::TimePassed => {}
        }
    }
}

enum Work {
    Waits(Instant),
    Over(Ended),
}

struct Process {
    body: Rc<Body>,
    updater: Updater<FaultyDisk, Desk>,
    waiting: Rc<RefCell<Waiting>>,
    has_link: Rc<Cell<bool>>,
    link: Option<Link>,
    began: Instant,
    /// Facts that wait for room.
    facts: VecDeque<Told>,
}

/// What the agent said.
enum Told {
    Fact(Fact),
    Time(SignedTime),
    Answer(Fetched),
}

impl Process {
    /// None if power failed already.
    fn start(body: Rc<Body>, running: Running) -> Option<Self> {
        let disk = body.disk();
        let (storage, mut keys) = (Storage::new(disk.clone()), KeyStore::Files);
        let trust = factory_document(&storage, &mut keys, body.folder().path())
            .and_then(|factory| Trust::load(&storage, keys, &factory));
        let waiting = Rc::new(RefCell::new(Waiting::default()));
        let has_link = Rc::new(Cell::new(false));
        let desk = Desk { body: body.clone(), waiting: waiting.clone(), has_link: has_link.clone() };
        let generation = running.generation;
        let started = Updater::start(storage, desk, trust, running, body.draw());
        let mut updater = match started {
            Ok(updater) => updater,
            Err(_) if disk.is_off() => return None,
            Err(error) => unreachable!("the updater of {} does not start: {error}", body.name()),
        };
        if let Some(pending) = &updater.record().pending
            && pending.generation == Some(generation)
        {
            let attempt = pending.wish.rollout.as_ref().map(ToString::to_string).unwrap_or_default();
            body.on_trial(&attempt, generation);
        }
        updater.tell(Fact::AppsConnected);
        let (began, link, facts) = (Instant::now(), None, VecDeque::new());
        Some(Self { body, updater, waiting, has_link, link, began, facts })
    }

    /// Works until there is something to wait for.
    fn work(&mut self) -> Work {
        loop {
            self.updater.time(self.began.elapsed(), self.body.wall());
            let turn = self.updater.turn();
            if self.body.disk().is_off() {
                return Work::Over(Ended::PowerFailed);
            }
            let has_news = self.tell();
            match turn {
                Turn::Reboot => return Work::Over(Ended::Restart),
                Turn::Again => {}
                Turn::Wait(_) if has_news => {}
                Turn::Wait(until) => {
                    let now = self.began.elapsed();
                    let limit = until.map_or(now + IDLE, |until| until.min(now + IDLE));
                    return Work::Waits(self.began + limit.max(now + Duration::from_millis(1)));
                }
            }
        }
    }

    /// Hands over what waits, as far as there is room; true if there was anything.
    fn tell(&mut self) -> bool {
        let answers = std::mem::take(&mut self.waiting.borrow_mut().facts);
        self.facts.extend(answers.into_iter().map(Told::Fact));
        self.facts.extend(self.body.own_wish().map(|wish| Told::Fact(Fact::Desired(wish))));
        let mut has_news = false;
        while self.updater.has_room()
            && let Some(told) = self.facts.pop_front()
        {
            has_news = true;
            match told {
                Told::Fact(fact) => self.updater.tell(fact),
                Told::Time(time) => self.updater.hear_time(&time),
                Told::Answer(Fetched { id, result }) => self.updater.answer(Origin::Service, id, result),
            }
        }
        has_news
    }

    /// Says what waits to be said; without a link it is lost.
    async fn speak(&mut self) {
        let messages = std::mem::take(&mut self.waiting.borrow_mut().messages);
        let Some(link) = self.link.as_mut().filter(|link| link.has_greeted) else { return };
        for message in messages {
            let frame = encode(&message).expect("a message has a frame");
            if link.stream.write_all(&frame).await.is_err() {
                return self.disconnected();
            }
        }
    }

    /// The next bytes of the agent; none at all if it is gone.
    async fn hear(&mut self, piece: &mut [u8]) -> usize {
        match &mut self.link {
            Some(link) => link.stream.read(piece).await.unwrap_or(0),
            None => std::future::pending().await,
        }
    }

    async fn connected(&mut self, mut stream: DuplexStream) {
        let greeting = Greeting { protocol: PROTOCOL, role: Role::Updater, version: "simulated".to_owned() };
        let frame = encode(&greeting).expect("a greeting has a frame");
        if stream.write_all(&frame).await.is_ok() {
            self.link = Some(Link { stream, frames: FrameReader::new(), has_greeted: false });
        }
    }

    fn disconnected(&mut self) {
        self.link = None;
        self.has_link.set(false);
        self.updater.source_gone(Origin::Service);
        self.facts.push_back(Told::Fact(Fact::Contact(None)));
    }

    fn heard(&mut self, bytes: &[u8]) {
        let Some(link) = &mut self.link else { return };
        link.frames.push(bytes);
        if !link.has_greeted {
            let Some(_greeting) = link.frames.take::<Greeting>().expect("the agent greets") else { return };
            link.has_greeted = true;
            self.has_link.set(true);
            // What was asked over an earlier link is lost with it.
            self.updater.source_gone(Origin::Service);
            let status = UpdaterToAgent::Status(Box::new(self.updater.status()));
            self.waiting.borrow_mut().messages.push(status);
        }
        let Some(link) = &mut self.link else { return };
        while let Some(message) = link.frames.take::<AgentToUpdater>().expect("the agent speaks the protocol") {
            let told = match message {
                AgentToUpdater::Desire { release, digest, rollout, consent } => {
                    Told::Fact(Fact::Desired(Wish { release, digest, rollout, origin: Origin::Service, consent }))
                }
                AgentToUpdater::Rest => Told::Fact(Fact::Rest(Origin::Service)),
                AgentToUpdater::Fetched(fetched) => {
                    self.body.is_given(&fetched);
                    Told::Answer(fetched)
                }
                AgentToUpdater::Contact(contact) => {
                    self.body.contact(contact);
                    Told::Fact(Fact::Contact(Some(contact)))
                }
                AgentToUpdater::TrustedTime(time) => Told::Time(time),
                AgentToUpdater::Restart => Told::Fact(Fact::RestartAsked),
                AgentToUpdater::FactoryReset => Told::Fact(Fact::ResetAsked),
                // Nobody configures these devices: no log level, no window of their own. And an agent does not answer for people.
                AgentToUpdater::Settings(_) | AgentToUpdater::Answer { .. } => continue,
            };
            self.facts.push_back(told);
        }
    }
}
