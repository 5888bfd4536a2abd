//! The other ends of the device's sockets: an agent that serves one account's repository, and an `mbl-apps` without containers.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use protocol_types::{
    DeviceConsent, Digest, RolloutId, TargetPath, UpdateStatus,
    socket::{
        AgentToUpdater, ApplicationState, ApplicationStatus, AppsToUpdater, Contact, Fetch, Fetched, FrameReader,
        Greeting, PROTOCOL, Role, UpdaterToAgent, UpdaterToApps, encode,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::account::Account;

/// What the service wants, and how applications fare.
pub(crate) struct World {
    pub(crate) account: Account,
    pub(crate) wish: Option<(TargetPath, Digest, RolloutId)>,
    /// Whether somebody at the device is asked before any of it is installed.
    pub(crate) consent: Option<DeviceConsent>,
    rollouts: u32,
    /// The set with this key never becomes ready.
    pub(crate) sick: Option<Digest>,
    pub(crate) contact: Contact,
    /// Each answer to a request for bytes takes this long.
    pub(crate) slowness: Duration,
    pub(crate) statuses: Vec<UpdateStatus>,
    /// Requests for blocks of the root that were answered.
    pub(crate) pieces: u32,
}

impl World {
    pub(crate) fn new(account: Account) -> Self {
        Self {
            account,
            wish: None,
            consent: None,
            rollouts: 0,
            sick: None,
            contact: Contact { registered: true, network: true },
            slowness: Duration::ZERO,
            statuses: Vec::new(),
            pieces: 0,
        }
    }

    pub(crate) fn want(&mut self, (release, digest): (TargetPath, Digest)) {
        self.rollouts += 1;
        self.wish = Some((release, digest, RolloutId::new(format!("r{}", self.rollouts)).unwrap()));
    }
}

/// Both peers, as long as this lives.
pub(crate) struct Peers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Peers {
    pub(crate) fn play(device: &Path, world: &Arc<Mutex<World>>) -> Self {
        let mut peers = Self::play_apps(device, world);
        let (socket, world, stop) = (device.join("run/updater.sock"), world.clone(), peers.stop.clone());
        peers.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(stream) = UnixStream::connect(&socket) {
                    agent(stream, &world, &stop);
                }
                pause(Duration::from_millis(20));
            }
        }));
        peers
    }

    pub(crate) fn play_apps(device: &Path, world: &Arc<Mutex<World>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (run, world, stopped) = (device.join("run"), world.clone(), stop.clone());
        let threads = vec![thread::spawn(move || listen_as_apps(&run, &world, &stopped))];
        Self { stop, threads }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Lets time pass; a cut of power comes at a time, not after a fact.
pub(crate) fn pause(time: Duration) {
    let (_keep, never) = mpsc::channel::<()>();
    never.recv_timeout(time).unwrap_err();
}

/// One side of a connection; reads return now and then so that a test can stop.
pub(crate) struct Line {
    stream: UnixStream,
    reader: FrameReader,
}

/// Nothing more comes over a line.
#[derive(Debug)]
pub(crate) struct Ended;

impl Line {
    pub(crate) fn open(stream: UnixStream, role: Role) -> Self {
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut line = Self { stream, reader: FrameReader::new() };
        line.say(&Greeting { protocol: PROTOCOL, role, version: "test".to_owned() });
        line
    }

    /// False if nobody listens any more.
    pub(crate) fn say<M: Serialize>(&mut self, message: &M) -> bool {
        self.stream.write_all(&encode(message).unwrap()).is_ok()
    }

    pub(crate) fn hear<M: DeserializeOwned>(&mut self) -> Result<Option<M>, Ended> {
        if let Some(message) = self.reader.take().map_err(|_| Ended)? {
            return Ok(Some(message));
        }
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(Ended),
            Ok(read) => {
                self.reader.push(&piece[..read]);
                self.reader.take().map_err(|_| Ended)
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => Ok(None),
            Err(_) => Err(Ended),
        }
    }

    pub(crate) fn greeting(&mut self) -> Result<Greeting, Ended> {
        loop {
            if let Some(greeting) = self.hear()? {
                return Ok(greeting);
            }
        }
    }
}

/// Speaks as the agent until the connection ends.
fn agent(stream: UnixStream, world: &Mutex<World>, stop: &AtomicBool) {
    let mut line = Line::open(stream, Role::Agent);
    if line.greeting().is_err() {
        return;
    }
    let (mut told, mut contact) = (None, None);
    while !stop.load(Ordering::Relaxed) {
        let (wish, consent, now) = {
            let world = world.lock().unwrap();
            (world.wish.clone(), world.consent, world.contact)
        };
        if told != wish {
            if let Some((release, digest, rollout)) = wish.clone() {
                line.say(&AgentToUpdater::Desire { release, digest, rollout: Some(rollout), consent });
            }
            told = wish;
        }
        if contact != Some(now) {
            contact = Some(now);
            line.say(&AgentToUpdater::Contact(now));
        }
        match line.hear() {
            Err(Ended) => return,
            Ok(None) => {}
            Ok(Some(UpdaterToAgent::Fetch { id, what })) => {
                let (result, slowness) = {
                    let mut world = world.lock().unwrap();
                    let is_piece = matches!(&what, Fetch::Artifact { length, .. } if *length > 64 * 1024);
                    world.pieces += u32::from(is_piece);
                    (world.account.fetch(&what), world.slowness)
                };
                pause(slowness);
                line.say(&AgentToUpdater::Fetched(Fetched { id, result }));
            }
            Ok(Some(UpdaterToAgent::Status(status))) => world.lock().unwrap().statuses.push(*status),
            Ok(Some(UpdaterToAgent::Restarting | UpdaterToAgent::Reset { .. })) => {}
        }
    }
}

/// Listens in each life of the device.
fn listen_as_apps(run: &Path, world: &Mutex<World>, stop: &AtomicBool) {
    let path = run.join("apps.sock");
    while !stop.load(Ordering::Relaxed) {
        // A restart empties `run/`, and the socket with it.
        if (run.join("cmdline").exists() || run.join("boot.json").exists())
            && !path.exists()
            && let Ok(listener) = UnixListener::bind(&path)
        {
            listener.set_nonblocking(true).unwrap();
            // The updater and an installer may be connected at the same time.
            thread::scope(|lines| {
                while path.exists() && !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => drop(lines.spawn(|| apps(stream, &path, world, stop))),
                        Err(_) => pause(Duration::from_millis(20)),
                    }
                }
            });
        }
        pause(Duration::from_millis(20));
    }
    drop(std::fs::remove_file(&path));
}

fn apps(stream: UnixStream, path: &Path, world: &Mutex<World>, stop: &AtomicBool) {
    stream.set_nonblocking(false).unwrap();
    let mut line = Line::open(stream, Role::Apps);
    if line.greeting().is_err() {
        return;
    }
    while path.exists() && !stop.load(Ordering::Relaxed) {
        match line.hear() {
            Err(Ended) => return,
            Ok(None | Some(UpdaterToApps::Retain { .. })) => {}
            Ok(Some(UpdaterToApps::Prepare { release, .. })) => {
                line.say(&AppsToUpdater::Prepared { release, refused: None });
            }
            Ok(Some(UpdaterToApps::Run { release, applications })) => {
                let sick = world.lock().unwrap().sick == Some(release);
                let state = if sick { ApplicationState::Started } else { ApplicationState::Ready };
                let applications = applications.into_iter().map(|spec| ApplicationStatus {
                    name: spec.name,
                    digest: spec.digest,
                    state,
                    restarts: 0,
                    reason: None,
                });
                line.say(&AppsToUpdater::Status { release: Some(release), applications: applications.collect() });
            }
        }
    }
}
