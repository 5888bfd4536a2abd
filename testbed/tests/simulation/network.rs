//! The network between devices and the service: real bytes over streams that are slow, break, or carry nothing for hours. Inside of a
//! stream nothing is lost or changes its place, as with TCP; what is lost there is time, or the whole connection.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use device_agent::{
    address::ServerAddress,
    dial::DialError,
    network::{Connected, Dialing, Network},
};
use fleet_server::embedded::DevicePort;
use rustls::{AlertDescription, ClientConfig, ClientConnection, ServerConfig, ServerConnection, SignatureScheme};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    machine::Machine,
    random::Random,
    service::Service,
    tasks::{Tasks, Waits},
};

/// Bytes on their way in one direction.
const ROOM: usize = 256 * 1024;
/// Bytes that are carried at a time.
const PIECE: usize = 8192;
/// How long a device waits for a connection, as `device_agent::dial` does.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long bytes are sent again before a connection is given up.
const GIVES_UP: Duration = Duration::from_secs(900);
/// How long the service keeps the connection of a device that lost its power without a word.
const KEEPS_DEAD: Duration = Duration::from_secs(7200);

/// A device that wants to be connected.
pub(crate) struct Dial {
    place: usize,
    to: ServerAddress,
    tls: Arc<ClientConfig>,
    answer: oneshot::Sender<Result<Connected, DialError>>,
}

/// A device's way to the network.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    place: usize,
    dials: mpsc::UnboundedSender<Dial>,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dial").field("place", &self.place).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Network for Line {
    fn dial(&self, _from: Option<IpAddr>, to: &ServerAddress, tls: Arc<ClientConfig>) -> Dialing {
        let (answer, answered) = oneshot::channel();
        let asked = self.dials.send(Dial { place: self.place, to: to.clone(), tls, answer }).is_ok();
        let to = to.clone();
        Box::pin(async move {
            let unreached = |kind: io::ErrorKind| DialError::Unreached { address: to.clone(), source: kind.into() };
            if !asked {
                return Err(unreached(io::ErrorKind::NetworkUnreachable));
            }
            match timeout(PATIENCE, answered).await {
                Ok(Ok(connected)) => connected,
                Ok(Err(_)) => Err(unreached(io::ErrorKind::ConnectionReset)),
                Err(_) => Err(unreached(io::ErrorKind::TimedOut)),
            }
        })
    }
}

/// How one device is connected.
struct Lane {
    random: RefCell<Random>,
    /// Nothing gets through before this.
    down_until: Cell<Duration>,
    /// Cancelled to break every connection that stands.
    cut: RefCell<CancellationToken>,
    /// Whether its connections end without a word.
    dies: Cell<bool>,
    /// Whether its clock may make it doubt the service's certificate.
    doubts: Cell<bool>,
    /// Whose certificates it shows instead of its own: a fault that the simulation plants to see it caught.
    disguise: RefCell<Option<Vec<CertificateDer<'static>>>>,
}

struct Inner {
    machine: Rc<Machine>,
    tasks: Tasks,
    service: Service,
    lanes: Vec<Lane>,
    dials: mpsc::UnboundedSender<Dial>,
    connections: Cell<u64>,
}

/// The network of one simulation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Switch(Rc<Inner>);

impl Switch {
    /// A network for so many devices; `seed` decides its delays.
    pub(crate) fn new(machine: Rc<Machine>, (tasks, service): (Tasks, Service), devices: usize, seed: u64) -> Self {
        let (dials, arrivals) = mpsc::unbounded_channel();
        let lane = |place| Lane {
            random: RefCell::new(Random::of(seed, "lane", place)),
            down_until: Cell::new(Duration::ZERO),
            cut: RefCell::new(CancellationToken::new()),
            dies: Cell::new(false),
            doubts: Cell::new(false),
            disguise: RefCell::new(None),
        };
        let lanes = (0..devices).map(lane).collect();
        let inner = Inner { machine, tasks: tasks.clone(), service, lanes, dials, connections: Cell::new(0) };
        let switch = Self(Rc::new(inner));
        tasks.spawn(Waits::Nothing, switch.clone().connect(arrivals));
        switch
    }

    pub(crate) fn line(&self, place: usize) -> Line {
        Line { place, dials: self.0.dials.clone() }
    }

    /// Connections that stood so far.
    pub(crate) fn connections(&self) -> u64 {
        self.0.connections.get()
    }

    /// Lets nothing of this device through for a while.
    pub(crate) fn part(&self, place: usize, time: Duration) {
        self.0.lanes[place].down_until.set(self.0.machine.passed() + time);
    }

    /// Breaks every connection of this device.
    pub(crate) fn cut(&self, place: usize) {
        self.0.lanes[place].cut.replace(CancellationToken::new()).cancel();
    }

    /// Says whether connections of this device that end now do so without a word.
    pub(crate) fn dies(&self, place: usize, dies: bool) {
        self.0.lanes[place].dies.set(dies);
    }

    /// Says whether the clock of this device is so wrong that handshakes must be made.
    pub(crate) fn doubts(&self, place: usize, doubts: bool) {
        self.0.lanes[place].doubts.set(doubts);
    }

    /// Lets the service take this device for the one with these certificates, or for itself again.
    pub(crate) fn disguise(&self, place: usize, chain: Option<Vec<CertificateDer<'static>>>) {
        self.0.lanes[place].disguise.replace(chain);
    }

    /// Lets nothing hold up anybody any more.
    pub(crate) fn heal(&self) {
        self.0.lanes.iter().for_each(|lane| lane.down_until.set(Duration::ZERO));
    }

    async fn connect(self, mut arrivals: mpsc::UnboundedReceiver<Dial>) {
        while let Some(dial) = arrivals.recv().await {
            self.0.tasks.spawn(Waits::Nothing, self.clone().answer(dial));
        }
    }

    /// The time that bytes take.
    fn delay(&self, place: usize) -> Duration {
        let mut random = self.0.lanes[place].random.borrow_mut();
        // Now and then a packet is lost and sent again.
        let lost = if random.chance(20) { random.between(200, 3000) } else { 0 };
        Duration::from_millis(random.between(5, 120) + lost)
    }

    /// Whether bytes get through, once they do.
    async fn passes(&self, place: usize) -> bool {
        let began = self.0.machine.passed();
        loop {
            let (now, until) = (self.0.machine.passed(), self.0.lanes[place].down_until.get());
            if until <= now {
                return true;
            }
            if now - began >= GIVES_UP {
                return false;
            }
            sleep((until - now).min(GIVES_UP)).await;
        }
    }

    async fn answer(self, dial: Dial) {
        let Dial { place, to, tls, answer } = dial;
        sleep(self.delay(place) * 2).await;
        if !self.passes(place).await || answer.is_closed() {
            return;
        }
        let connected = self.open(place, &to, &tls);
        // A device that gave up meanwhile does not hear it.
        drop(answer.send(connected));
    }

    fn open(&self, place: usize, to: &ServerAddress, tls: &Arc<ClientConfig>) -> Result<Connected, DialError> {
        let lane = &self.0.lanes[place];
        let insecure = |error: rustls::Error| {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            DialError::Insecure { address: to.clone(), source }
        };
        let Some((service, port)) = self.0.service.port(to.port()) else {
            let source = io::ErrorKind::ConnectionRefused.into();
            return Err(DialError::Unreached { address: to.clone(), source });
        };
        if lane.doubts.get() {
            let server = service.tls(port).map_err(|e| insecure(rustls::Error::General(e.to_string())))?;
            shake_hands(tls.clone(), to, server).map_err(insecure)?;
        }
        let chain = match &*lane.disguise.borrow() {
            Some(chain) if port != DevicePort::Bootstrap => chain.clone(),
            _ => shown(tls).unwrap_or_default(),
        };
        let refused = |_| insecure(rustls::Error::AlertReceived(AlertDescription::CertificateUnknown));
        let accepted = service.accept(port, &chain).map_err(refused)?;
        self.0.connections.set(self.0.connections.get() + 1);
        let (near, here) = duplex(ROOM);
        let (there, far) = duplex(ROOM);
        self.0.service.adopt(service.clone().attend(far, accepted));
        let cut = lane.cut.borrow().clone();
        self.0.tasks.spawn(Waits::Nothing, self.clone().carry(place, (here, there), cut));
        Ok(Connected { stream: Box::new(near), from: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) })
    }

    /// Carries bytes both ways until either end closes or the connection is cut.
    async fn carry(self, place: usize, (device, service): (DuplexStream, DuplexStream), cut: CancellationToken) {
        let (mut from_device, mut to_device) = split(device);
        let (mut from_service, mut to_service) = split(service);
        let is_device = tokio::select! {
            () = self.pump(place, &mut from_device, &mut to_service) => true,
            () = self.pump(place, &mut from_service, &mut to_device) => false,
            () = cut.cancelled() => false,
        };
        if is_device && self.0.lanes[place].dies.get() {
            // Nobody tells the service that the device is gone; what it still sends gets nowhere.
            let mut lost = vec![0; PIECE];
            let deaf = async { while from_service.read(&mut lost).await.is_ok_and(|read| read > 0) {} };
            drop(timeout(KEEPS_DEAD, deaf).await);
        }
    }

    async fn pump(&self, place: usize, from: &mut ReadHalf<DuplexStream>, to: &mut WriteHalf<DuplexStream>) {
        let mut piece = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut piece).await {
            sleep(self.delay(place)).await;
            if !self.passes(place).await || to.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
    }
}

/// The certificates that a device shows with these settings, the leaf first.
fn shown(tls: &ClientConfig) -> Option<Vec<CertificateDer<'static>>> {
    let key = tls.client_auth_cert_resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256])?;
    Some(key.cert.clone())
}

/// A whole handshake in memory: what a device with a doubtful clock comes to, with the certificates and checks of the real one.
fn shake_hands(tls: Arc<ClientConfig>, to: &ServerAddress, server: Arc<ServerConfig>) -> Result<(), rustls::Error> {
    let general = |e: io::Error| rustls::Error::General(e.to_string());
    let (mut client, mut server) = (ClientConnection::new(tls, to.name().clone())?, ServerConnection::new(server)?);
    for _ in 0..8 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).map_err(general)?;
        }
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).map_err(general)?;
            if server.process_new_packets().is_err() {
                return Err(rustls::Error::AlertReceived(AlertDescription::CertificateUnknown));
            }
        }
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).map_err(general)?;
        }
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).map_err(general)?;
            client.process_new_packets()?;
        }
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err(rustls::Error::General("the handshake does not come to an end".to_owned()))
}
