//! Accepts connections, checks who speaks, and turns their frames into events.

use std::{
    fs, io,
    io::Read,
    os::unix::{
        fs::{PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use protocol_types::socket::{AgentToApps, FrameReader, Greeting, PROTOCOL, Role, UpdaterToApps, encode};
use rustix::net::sockopt::socket_peercred;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::{Bringer, Outbox};

/// How long a peer may take to say who it is.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// Connections at a time of each of the two users: the agent's must not keep the updater out.
const MOST_CONNECTIONS: usize = 4;

/// Which user may speak in which role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// The agent's user.
    pub agent: u32,
    /// The user of the updater and of an installer: this process's own.
    pub updater: u32,
}

/// What a peer did.
#[derive(Debug)]
pub enum Heard {
    /// Somebody who brings artifacts connected.
    BringerConnected(Bringer, Outbox),
    /// They said something.
    Bringer(Bringer, AgentToApps),
    /// Their connection of this number ended.
    BringerGone(Bringer, u64),
    /// The updater connected.
    UpdaterConnected(Outbox),
    /// The updater said something.
    Updater(UpdaterToApps),
    /// The updater's connection of this number ended.
    UpdaterGone(u64),
}

/// A socket on which nobody was accepted yet.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    peers: Peers,
}

impl Listener {
    /// Listens at `path`, in place of an earlier life's socket. Only the agent's user and root can connect.
    pub fn bind(path: &Path, peers: Peers) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        if peers.agent != rustix::process::geteuid().as_raw() {
            chown(path, Some(peers.agent), None)?;
        }
        Ok(Self { socket, peers })
    }

    /// Accepts until the process ends; every event goes to `hear`.
    pub fn serve(self, hear: impl Fn(Heard) + Send + Sync + Clone + 'static) {
        let (of_agent, of_updater) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // On one machine both may be the same user.
        let most = if self.peers.agent == self.peers.updater { 2 * MOST_CONNECTIONS } else { MOST_CONNECTIONS };
        let mut connections = 0;
        for stream in self.socket.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    // Out of descriptors, most likely: trying at once would only say so again.
                    thread::park_timeout(Duration::from_millis(200));
                    continue;
                }
            };
            let open = match socket_peercred(&stream).map(|peer| peer.uid.as_raw()) {
                Ok(uid) if uid == self.peers.updater => &of_updater,
                Ok(uid) if uid == self.peers.agent => &of_agent,
                Ok(uid) => {
                    warn!(uid, "a stranger is refused");
                    continue;
                }
                Err(error) => {
                    warn!(%error, "cannot tell who connects");
                    continue;
                }
            };
            let place = Place::take(open);
            if place.number > most {
                warn!("too many connections; one is refused");
                continue;
            }
            let (peers, hear) = (self.peers, hear.clone());
            connections += 1;
            let connection = connections;
            let talk = move || {
                let _place = place;
                if let Err(error) = converse(stream, connection, peers, &hear) {
                    warn!(%error, "a connection ended");
                }
            };
            if let Err(error) = thread::Builder::new().name("reader".into()).stack_size(512 * 1024).spawn(talk) {
                warn!(%error, "cannot serve a connection");
            }
        }
    }
}

/// One of the connections that may be open at a time.
struct Place {
    open: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        Self { number: open.fetch_add(1, Ordering::SeqCst) + 1, open: Arc::clone(open) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why a conversation ended, other than by the peer's goodbye.
#[derive(Debug, thiserror::Error)]
enum TalkError {
    #[error("cannot read from or write to the peer")]
    Io(#[from] io::Error),
    #[error("the peer sent something else than a message")]
    Frame(#[from] protocol_types::socket::FrameError),
    #[error("the peer did not say who it is in time")]
    Silent,
    #[error("the peer speaks protocol {0} instead of {PROTOCOL}")]
    Protocol(u16),
    #[error("user {uid} may not speak as {role:?}")]
    NotAllowed { uid: u32, role: Role },
}

fn converse(mut stream: UnixStream, connection: u64, peers: Peers, hear: &impl Fn(Heard)) -> Result<(), TalkError> {
    let greeting = Greeting { protocol: PROTOCOL, role: Role::Apps, version: env!("CARGO_PKG_VERSION").into() };
    stream.set_write_timeout(Some(GREETING_LIMIT))?;
    io::Write::write_all(&mut stream, &encode(&greeting)?)?;
    let mut reader = FrameReader::new();
    let Greeting { protocol, role, version } = greet(&mut stream, &mut reader)?;
    if protocol != PROTOCOL {
        return Err(TalkError::Protocol(protocol));
    }
    let uid = socket_peercred(&stream).map_err(io::Error::from)?.uid.as_raw();
    let allowed = match role {
        Role::Agent => uid == peers.agent,
        Role::Updater | Role::Installer => uid == peers.updater,
        Role::Apps | Role::System => false,
    };
    if !allowed {
        return Err(TalkError::NotAllowed { uid, role });
    }
    info!(?role, %version, "connected");
    let outbox = Outbox::open(stream.try_clone()?, connection)?;
    stream.set_read_timeout(None)?;
    let bringer = match role {
        Role::Agent => Bringer::Agent,
        Role::Installer => Bringer::Installer,
        Role::Updater | Role::Apps | Role::System => {
            hear(Heard::UpdaterConnected(outbox));
            let ended = listen(&mut stream, &mut reader, |message| hear(Heard::Updater(message)));
            hear(Heard::UpdaterGone(connection));
            return ended;
        }
    };
    hear(Heard::BringerConnected(bringer, outbox));
    let ended = listen(&mut stream, &mut reader, |message| hear(Heard::Bringer(bringer, message)));
    hear(Heard::BringerGone(bringer, connection));
    ended
}

/// Reads the greeting; the limit is for the whole of it, however slowly its bytes come.
fn greet(stream: &mut UnixStream, reader: &mut FrameReader) -> Result<Greeting, TalkError> {
    let until = Instant::now() + GREETING_LIMIT;
    loop {
        if let Some(greeting) = reader.take()? {
            return Ok(greeting);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TalkError::Silent);
        }
        stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(0) => return Err(TalkError::Silent),
            Ok(read) => reader.push(&piece[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(TalkError::Silent);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn listen<M: DeserializeOwned>(
    stream: &mut UnixStream,
    reader: &mut FrameReader,
    mut hear: impl FnMut(M),
) -> Result<(), TalkError> {
    let mut piece = vec![0; 32 * 1024];
    loop {
        while let Some(message) = reader.take()? {
            hear(message);
        }
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            read => reader.push(&piece[..read]),
        }
    }
}
