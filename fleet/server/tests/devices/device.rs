//! A device as the agent would be: the client state machine of `protocol-lwm2m` over real TLS, with a key, two certificates and
//! the objects 3 and 26241 in memory.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use protocol_lwm2m::{
    client::{Client, DialFailure, Fact, ObjectError, Objects, Reading, Settings, Step, Target, WriteMode},
    coap::{Code, ContentFormat, Message, tcp},
    formats::{Entry, Value},
    object::{Accounts, Path},
    time::Millis,
};
use protocol_types::{Digest, EndpointName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_rustls::client::TlsStream;

use crate::{
    factory::Identity,
    service::Service,
    wire::{connect, tls},
};

/// The resource that asks for a restart.
const RESTART: (u16, u16) = (3, 4);
/// The resource that asks for a factory reset.
const FACTORY_RESET: (u16, u16) = (3, 5);

/// The resources of `/26241/0` and `/3/0`.
pub(crate) struct Memory(pub(crate) BTreeMap<(u16, u16), Reading>);

impl Memory {
    fn new() -> Self {
        let text = |text: &str| Reading::from(text);
        Self(BTreeMap::from([
            ((3, 0), text("Example Works")),
            ((3, 1), text("Gate")),
            ((3, 16), text("T")),
            ((26241, 0), text("")),
            ((26241, 1), text("")),
            ((26241, 2), text("")),
            ((26241, 3), text("idle")),
            ((26241, 4), text("")),
            ((26241, 5), text("")),
            ((26241, 6), Reading::from(0)),
            ((26241, 7), text("")),
            ((26241, 8), text("")),
            ((26241, 9), text("1.0.0")),
            ((26241, 10), text("")),
            ((26241, 11), text("a")),
            ((26241, 12), Reading::Multiple(Vec::new())),
            ((26241, 13), Reading::from(1)),
            ((26241, 14), text("")),
        ]))
    }
}

impl Objects for Memory {
    fn objects(&self) -> Vec<u16> {
        vec![3, 26241]
    }

    fn instances(&self, _: u16) -> Vec<u16> {
        vec![0]
    }

    fn read(&self, object: u16, _: u16, resource: u16) -> Result<Reading, ObjectError> {
        self.0.get(&(object, resource)).cloned().ok_or(ObjectError::NotFound)
    }

    fn write(&mut self, _: &Path, _: WriteMode, entries: &[Entry]) -> Result<(), ObjectError> {
        if self.0.contains_key(&(26241, FULL)) {
            return Err(ObjectError::Failed("no_room".to_owned()));
        }
        for entry in entries {
            let [object, _, resource] = *entry.path.ids() else { return Err(ObjectError::NotFound) };
            self.0.insert((object, resource), Reading::Single(entry.value.clone()));
        }
        Ok(())
    }

    fn execute(&mut self, object: u16, _: u16, resource: u16, _: &str) -> Result<(), ObjectError> {
        if ![RESTART, FACTORY_RESET].contains(&(object, resource)) {
            return Err(ObjectError::NotAllowed);
        }
        self.0.insert((object, resource), Reading::from("executed"));
        Ok(())
    }

    fn keep_accounts(&mut self, _: &Accounts) -> Result<(), ObjectError> {
        Ok(())
    }
}

/// A resource of object 26241 that a device has as long as its disk is full: then it takes no order.
pub(crate) const FULL: u16 = 999;

/// What a test tells a running device.
pub(crate) enum Order {
    /// Sets a resource of object 26241 and says that it changed.
    Set(u16, Reading),
    /// Renews the operational certificate and connects again with it.
    Renew,
    /// Goes away without a word.
    Vanish,
}

/// What a running device tells a test.
#[derive(Debug, PartialEq)]
pub(crate) enum News {
    Enrolled { certificate: Digest },
    Registered,
    Unregistered,
    Refused { code: Code, diagnostic: String },
    Wish { path: String, digest: String, rollout: String },
    ArtifactServer(String),
    FactoryReset,
    Restart,
}

pub(crate) struct Device {
    orders: mpsc::Sender<Order>,
    news: mpsc::Receiver<News>,
    task: JoinHandle<()>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Device {
    /// Starts a device that has nothing but its factory certificate.
    pub(crate) fn start(service: &Service, factory: Identity, endpoint: &str) -> Self {
        let (orders, inbox) = mpsc::channel(16);
        let (outbox, news) = mpsc::channel(256);
        let mut settings = Settings::new(EndpointName::new(endpoint).unwrap(), 7);
        settings.first_retry = Duration::from_millis(200);
        settings.return_spread = settings.first_retry;
        let running = Running {
            endpoint: endpoint.to_owned(),
            bootstrap: service.addresses.bootstrap,
            authority_pem: service.authority_pem.clone(),
            factory,
            operational: None,
            client: Client::new(settings, None),
            memory: Memory::new(),
            stream: None,
            started: Instant::now(),
            wake: None,
            renewing: false,
            news: outbox,
        };
        Self { orders, news, task: tokio::spawn(running.run(inbox)) }
    }

    pub(crate) async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    /// Waits for news of a kind; other news pass by.
    pub(crate) async fn hear<T>(&mut self, what: &str, mut pick: impl FnMut(&News) -> Option<T>) -> T {
        let mut passed = Vec::new();
        loop {
            match tokio::time::timeout(crate::service::SOON, self.news.recv()).await {
                Ok(Some(news)) => match pick(&news) {
                    Some(found) => return found,
                    None => passed.push(news),
                },
                Ok(None) => panic!("the device ended before {what}: {passed:?}"),
                Err(_) => panic!("the device never told {what}: {passed:?}"),
            }
        }
    }

    /// News that have come and were not waited for.
    pub(crate) fn passed(&mut self) -> Vec<News> {
        std::iter::from_fn(|| self.news.try_recv().ok()).collect()
    }

    pub(crate) async fn registered(&mut self) {
        self.hear("that it registered", |news| (*news == News::Registered).then_some(())).await;
    }

    pub(crate) async fn enrolled(&mut self) -> Digest {
        self.hear("that it enrolled", |news| match news {
            News::Enrolled { certificate } => Some(*certificate),
            _ => None,
        })
        .await
    }
}

struct Running {
    endpoint: String,
    bootstrap: SocketAddr,
    authority_pem: String,
    factory: Identity,
    operational: Option<Identity>,
    client: Client,
    memory: Memory,
    stream: Option<(TlsStream<TcpStream>, tcp::Decoder)>,
    started: Instant,
    wake: Option<Instant>,
    renewing: bool,
    news: mpsc::Sender<News>,
}

const ENROL: u64 = 1;
const RENEW: u64 = 2;

impl Running {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut facts = std::collections::VecDeque::from([Fact::Started]);
        loop {
            while let Some(fact) = facts.pop_front() {
                let now = Millis(self.started.elapsed().as_millis().try_into().unwrap());
                for step in self.client.on(now, fact, &mut self.memory) {
                    facts.extend(self.perform(step).await);
                }
            }
            tokio::select! {
                order = orders.recv() => match order {
                    None | Some(Order::Vanish) => return,
                    Some(Order::Set(resource, reading)) => {
                        self.memory.0.insert((26241, resource), reading);
                        facts.push_back(Fact::Changed(Path::resource(26241, 0, resource)));
                    }
                    Some(Order::Renew) => {
                        self.renewing = true;
                        let request = self.certificate_request("/.well-known/est/sren");
                        facts.push_back(Fact::Request { id: RENEW, request });
                    }
                },
                fact = received(&mut self.stream) => {
                    if fact == Fact::Lost {
                        self.stream = None;
                    }
                    facts.push_back(fact);
                }
                () = at(self.wake) => {
                    self.wake = None;
                    facts.push_back(Fact::TimePassed);
                }
            }
        }
    }

    fn certificate_request(&self, path: &str) -> Message {
        Message::new(Code::POST)
            .path(path)
            .accept(ContentFormat::PKIX_CERT)
            .content(ContentFormat::PKCS10, self.factory.request("default", &self.endpoint))
    }

    async fn tell(&self, news: News) {
        // A test that has heard enough is no error.
        drop(self.news.send(news).await);
    }

    async fn perform(&mut self, step: Step) -> Vec<Fact> {
        match step {
            Step::Send(message) => self.send(&message).await,
            Step::Dial(target) => return vec![self.dial(target).await],
            Step::Close => self.stream = None,
            Step::WakeAt(Millis(at)) => self.wake = Some(self.started + Duration::from_millis(at)),
            Step::BootstrapDone(_) => {
                return vec![Fact::Request { id: ENROL, request: self.certificate_request("/.well-known/est/sen") }];
            }
            Step::Answered { id, result } => return self.answered(id, result.ok()).await,
            Step::Registered => self.tell(News::Registered).await,
            Step::Unregistered => self.tell(News::Unregistered).await,
            Step::Refused { code, diagnostic, .. } => self.tell(News::Refused { code, diagnostic }).await,
            Step::AccountsChanged(_) | Step::Stopped => {}
        }
        self.tell_wishes().await;
        Vec::new()
    }

    async fn answered(&mut self, id: u64, answer: Option<Message>) -> Vec<Fact> {
        match answer {
            Some(answer) if answer.code.is_success() => {
                self.operational = Some(self.factory.with(&answer.payload));
                self.tell(News::Enrolled { certificate: Digest::of(&answer.payload) }).await;
                if id == RENEW {
                    // One identity in one place: the old connection ends before the new one begins.
                    self.stream = None;
                    return vec![Fact::Lost];
                }
                vec![Fact::Enrolled]
            }
            Some(answer) => {
                self.tell(News::Refused { code: answer.code, diagnostic: answer.diagnostic() }).await;
                if id == ENROL { vec![Fact::EnrolFailed] } else { Vec::new() }
            }
            None => Vec::new(),
        }
    }

    async fn tell_wishes(&mut self) {
        let mut text = |resource| match self.memory.0.get_mut(&(26241, resource)) {
            Some(Reading::Single(Value::String(text))) => std::mem::take(text),
            _ => String::new(),
        };
        let server = text(14);
        let (path, digest, rollout) = (text(0), text(1), text(2));
        if self.memory.0.remove(&FACTORY_RESET).is_some() {
            self.tell(News::FactoryReset).await;
        }
        if self.memory.0.remove(&RESTART).is_some() {
            self.tell(News::Restart).await;
        }
        if !server.is_empty() {
            self.tell(News::ArtifactServer(server)).await;
        }
        if !path.is_empty() {
            self.tell(News::Wish { path, digest, rollout }).await;
        }
    }

    async fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        tcp::encode(message, &mut bytes);
        if let Some((stream, _)) = &mut self.stream {
            // A broken connection shows when it is read.
            drop(stream.write_all(&bytes).await);
            drop(stream.flush().await);
        }
    }

    async fn dial(&mut self, target: Target) -> Fact {
        let (address, identity) = match target {
            Target::Bootstrap => (self.bootstrap, &self.factory),
            Target::Management { uri, .. } => {
                let address = uri.strip_prefix("coaps+tcp://").unwrap().parse().unwrap();
                (address, self.operational.as_ref().expect("an operational certificate before management"))
            }
        };
        match connect(address, tls(&self.authority_pem, Some(identity), b"coap")).await {
            Ok(stream) => {
                self.stream = Some((stream, tcp::Decoder::new(1 << 20)));
                Fact::Connected
            }
            Err(_) => Fact::DialFailed(DialFailure::Unreachable),
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn received(stream: &mut Option<(TlsStream<TcpStream>, tcp::Decoder)>) -> Fact {
    let Some((stream, decoder)) = stream else { return std::future::pending().await };
    loop {
        if let Some(message) = decoder.next_message().expect("the service sends CoAP") {
            return Fact::Received(message);
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return Fact::Lost,
            Ok(length) => decoder.push(&chunk[..length]),
        }
    }
}
