//! The two local sockets of the updater: listens for the agent and an installer, dials `mbl-apps`. Never acts on a message: each
//! becomes an event in a bounded channel.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use protocol_types::socket::{
    AgentToUpdater, AppsToUpdater, FrameError, FrameReader, Greeting, PROTOCOL, Role, encode,
};
use rustix::net::sockopt::socket_peercred;
use serde::{Serialize, de::DeserializeOwned};
use tracing::{info, warn};

/// Where the updater listens, in a device's folder.
pub(crate) const SOCKET: &str = "run/updater.sock";
/// How long a peer may take to say who it is.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// How long a peer may take to accept what is said to it.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Connections at a time, strangers included.
const MOST_CONNECTIONS: usize = 8;
/// First and longest wait between two tries to reach `mbl-apps`.
const REDIAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Readers hold one frame and little else.
const STACK: usize = 256 * 1024;

/// Who is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The agent.
    Agent,
    /// `mbl-updater install`.
    Installer,
    /// `mbl-apps`.
    Apps,
}

/// What happened on a link. A link that was replaced by a newer one of the same peer is silent.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A peer is there.
    Up(Peer),
    /// The agent, or an installer in its place, says something.
    Agent(Peer, AgentToUpdater),
    /// `mbl-apps` says something.
    Apps(AppsToUpdater),
    /// A peer is gone.
    Down(Peer),
}

/// A connection that cannot be used (any more).
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The operating system said no.
    #[error("cannot {doing} the socket")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The peer did not keep to the protocol.
    #[error("the peer sent something else than a message")]
    Frame(#[from] FrameError),
    /// The peer closed before, or took too long for, what was awaited: first its greeting.
    #[error("the peer did not answer in time")]
    Silent,
    /// The peer is of another version.
    #[error("the peer speaks protocol {0}, this program speaks {PROTOCOL}")]
    Protocol(u16),
    /// The peer is not who it says.
    #[error("user {uid} may not speak as {role:?}")]
    NotAllowed {
        /// The user of the peer's process.
        uid: u32,
        /// The role in its greeting.
        role: Role,
    },
    /// Somebody else answered.
    #[error("{0:?} answered on this socket")]
    WrongPeer(Role),
    /// Too many peers at once.
    #[error("there are {MOST_CONNECTIONS} connections already")]
    TooMany,
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> LinkError {
    move |source| LinkError::Io { doing, source }
}

fn read_error(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => LinkError::Silent,
        _ => io_error("read from")(error),
    }
}

/// The newest link to each peer.
#[derive(Clone, Debug, Default)]
pub struct Links {
    links: Arc<Mutex<[Option<Link>; 3]>>,
    serial: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Link {
    serial: u64,
    stream: UnixStream,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, [Option<Link>; 3]> {
        // Every change is a single assignment, so a table whose lock was poisoned is whole.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to a peer; false if it is not there. A peer that does not listen loses its connection.
    pub fn say<M: Serialize>(&self, peer: Peer, message: &M) -> bool {
        let frame = match encode(message) {
            Ok(frame) => frame,
            Err(e) => {
                warn!(?peer, cause = %e, "cannot encode a message");
                return false;
            }
        };
        let mut links = self.lock();
        let Some(place) = links.get_mut(peer as usize) else { return false };
        let Some(link) = place else { return false };
        let said = link.stream.write_all(&frame);
        if let Err(e) = &said {
            warn!(?peer, cause = %e, "peer does not listen and is disconnected");
            hang_up(&link.stream);
            *place = None;
        }
        said.is_ok()
    }

    /// Enters a link, in place of an older one to the same peer.
    fn enter(&self, peer: Peer, stream: UnixStream) -> u64 {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        if let Some(place) = self.lock().get_mut(peer as usize)
            && let Some(older) = place.replace(Link { serial, stream })
        {
            hang_up(&older.stream);
        }
        serial
    }

    fn is_newest(&self, peer: Peer, serial: u64) -> bool {
        self.lock().get(peer as usize).is_some_and(|place| none_is_newer(place.as_ref(), serial))
    }

    /// Whether the link that ended was the newest one; it is forgotten then.
    fn leave(&self, peer: Peer, serial: u64) -> bool {
        let mut links = self.lock();
        let Some(place) = links.get_mut(peer as usize) else { return false };
        let is_newest = none_is_newer(place.as_ref(), serial);
        if is_newest {
            *place = None;
        }
        is_newest
    }

    /// Whether a peer is there now.
    pub fn has(&self, peer: Peer) -> bool {
        self.lock().get(peer as usize).is_some_and(Option::is_some)
    }
}

/// Whether no newer link has taken the place of the one with this serial.
fn none_is_newer(place: Option<&Link>, serial: u64) -> bool {
    place.is_none_or(|link| link.serial == serial)
}

fn hang_up(stream: &UnixStream) {
    // An error means that it is gone already.
    drop(stream.shutdown(std::net::Shutdown::Both));
}

/// The updater's socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    agent_uid: u32,
}

impl Listener {
    /// Listens at `path`, in place of an earlier life's socket. Only `agent_uid` and root can connect.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn bind(path: &Path, agent_uid: u32) -> Result<Self, LinkError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("replace")(e)),
            Ok(()) | Err(_) => {}
        }
        let socket = UnixListener::bind(path).map_err(io_error("bind"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io_error("protect"))?;
        if agent_uid != own_uid() {
            chown(path, Some(agent_uid), None).map_err(io_error("share"))?;
        }
        Ok(Self { socket, agent_uid })
    }

    /// Accepts connections until the process ends.
    pub fn serve(self, links: &Links, events: &SyncSender<Event>) {
        let open = Arc::new(AtomicUsize::new(0));
        for stream in self.socket.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(e) => {
                    warn!(cause = %e, "cannot accept a connection");
                    continue;
                }
            };
            let seat = Seat::take(&open);
            let (links, events, agent_uid) = (links.clone(), events.clone(), self.agent_uid);
            let talk = move || {
                let ended =
                    if seat.is_free() { host(stream, agent_uid, &links, &events) } else { Err(LinkError::TooMany) };
                if let Err(e) = ended {
                    warn!(cause = %anyhow::Error::from(e), "a connection ended");
                }
            };
            if let Err(e) = thread::Builder::new().name("reader".to_owned()).stack_size(STACK).spawn(talk) {
                warn!(cause = %e, "cannot serve a connection");
            }
        }
    }
}

/// One of the connections that may be open at a time.
struct Seat {
    open: Arc<AtomicUsize>,
    number: usize,
}

impl Seat {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        Self { open: Arc::clone(open), number: open.fetch_add(1, Ordering::Relaxed) }
    }

    const fn is_free(&self) -> bool {
        self.number < MOST_CONNECTIONS
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Serves one who connected.
fn host(stream: UnixStream, agent_uid: u32, links: &Links, events: &SyncSender<Event>) -> Result<(), LinkError> {
    let mut conversation = Conversation::open(stream, Role::Updater)?;
    let role = conversation.role;
    let uid = socket_peercred(&conversation.stream).map_err(|e| io_error("question")(e.into()))?.uid.as_raw();
    let peer = match role {
        Role::Agent if uid == agent_uid || uid == own_uid() => Peer::Agent,
        Role::Installer if uid == own_uid() => Peer::Installer,
        Role::Agent | Role::Installer | Role::Updater | Role::Apps | Role::System => {
            return Err(LinkError::NotAllowed { uid, role });
        }
    };
    conversation.attend(links, events, peer, |message| Event::Agent(peer, message))
}

/// Keeps a link to `mbl-apps`, until the process ends.
pub fn keep_apps(path: &Path, links: &Links, events: &SyncSender<Event>, stop: &Receiver<()>) {
    let mut wait = REDIAL.0;
    loop {
        let dialled = Instant::now();
        match dial(path, links, events) {
            Ok(()) => info!("mbl-apps ended the connection"),
            Err(LinkError::Io { doing: "dial", .. }) => {}
            Err(e) => warn!(cause = %anyhow::Error::from(e), "the connection to mbl-apps ended"),
        }
        wait = if dialled.elapsed() > REDIAL.1 { REDIAL.0 } else { (wait * 2).min(REDIAL.1) };
        if stop.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn dial(path: &Path, links: &Links, events: &SyncSender<Event>) -> Result<(), LinkError> {
    let stream = UnixStream::connect(path).map_err(io_error("dial"))?;
    let mut conversation = Conversation::open(stream, Role::Updater)?;
    let role = conversation.role;
    let uid = socket_peercred(&conversation.stream).map_err(|e| io_error("question")(e.into()))?.uid.as_raw();
    if role != Role::Apps || uid != own_uid() {
        return Err(LinkError::NotAllowed { uid, role });
    }
    conversation.attend(links, events, Peer::Apps, Event::Apps)
}

/// A connection after both greetings.
#[derive(Debug)]
pub struct Conversation {
    stream: UnixStream,
    reader: FrameReader,
    role: Role,
}

impl Conversation {
    /// Greets as `own` and waits for the peer's greeting.
    ///
    /// # Errors
    /// If the peer is silent, malformed or of another version.
    pub fn open(mut stream: UnixStream, own: Role) -> Result<Self, LinkError> {
        let greeting = Greeting { protocol: PROTOCOL, role: own, version: env!("CARGO_PKG_VERSION").to_owned() };
        stream.set_write_timeout(Some(WRITE_LIMIT)).map_err(io_error("set up"))?;
        stream.write_all(&encode(&greeting)?).map_err(io_error("write to"))?;
        let mut reader = FrameReader::new();
        let until = Instant::now() + GREETING_LIMIT;
        // The limit is for the whole greeting, however slowly its bytes come.
        let Greeting { protocol, role, version } = loop {
            if let Some(greeting) = reader.take()? {
                break greeting;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LinkError::Silent);
            }
            stream.set_read_timeout(Some(left)).map_err(io_error("set up"))?;
            if !read_piece(&mut stream, &mut reader).map_err(read_error)? {
                return Err(LinkError::Silent);
            }
        };
        if protocol != PROTOCOL {
            return Err(LinkError::Protocol(protocol));
        }
        stream.set_read_timeout(None).map_err(io_error("set up"))?;
        info!(?role, version = version.escape_debug().take(40).collect::<String>(), "connected");
        Ok(Self { stream, reader, role })
    }

    /// The peer's role.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The next message; none at the end of the connection.
    ///
    /// # Errors
    /// If the peer sends something else, or nothing within the time that was set.
    pub fn hear<M: DeserializeOwned>(&mut self) -> Result<Option<M>, LinkError> {
        loop {
            if let Some(message) = self.reader.take()? {
                return Ok(Some(message));
            }
            if !read_piece(&mut self.stream, &mut self.reader).map_err(read_error)? {
                return Ok(None);
            }
        }
    }

    /// Lets whoever waits for a message wait no longer than this, from the next read on.
    ///
    /// # Errors
    /// If the time is over.
    pub fn hear_until(&self, until: Instant) -> Result<(), LinkError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::Silent);
        }
        self.stream.set_read_timeout(Some(left)).map_err(io_error("set up"))
    }

    /// Says something.
    ///
    /// # Errors
    /// If the peer does not take it.
    pub fn say<M: Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        self.stream.write_all(&encode(message)?).map_err(io_error("write to"))
    }

    /// Turns messages into events until the connection ends.
    fn attend<M: DeserializeOwned>(
        &mut self,
        links: &Links,
        events: &SyncSender<Event>,
        peer: Peer,
        event: impl Fn(M) -> Event,
    ) -> Result<(), LinkError> {
        let writer = self.stream.try_clone().map_err(io_error("share"))?;
        let serial = links.enter(peer, writer);
        let mut ended = Ok(());
        if events.send(Event::Up(peer)).is_ok() {
            ended = loop {
                match self.hear() {
                    Ok(Some(message)) => {
                        if !links.is_newest(peer, serial) || events.send(event(message)).is_err() {
                            break Ok(());
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(e) => break Err(e),
                }
            };
        }
        hang_up(&self.stream);
        if links.leave(peer, serial) {
            // Whoever listened is gone only when the process ends.
            drop(events.send(Event::Down(peer)));
        }
        ended
    }
}

/// Reads what has arrived; false at the end.
fn read_piece(stream: &mut UnixStream, reader: &mut FrameReader) -> io::Result<bool> {
    let mut piece = [0; 32 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(read) => {
                reader.push(piece.get(..read).unwrap_or_default());
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
