//! A device folder with the real `mbl-apps`, and threads that speak the agent's and the updater's side of the socket.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod image;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use protocol_types::{
    Digest, Reason,
    socket::{
        AgentToApps, ApplicationState, ApplicationStatus, AppsSettings, AppsToAgent, AppsToUpdater, Fetch, FetchError,
        Fetched, FrameReader, GivenToApplication, Greeting, MAX_FETCH, PROTOCOL, Role, UpdaterToApps, encode,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use image::Image;

/// Long enough for a slow machine that does other things as well.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The socket of the service manager in the folder of the device.
const MANAGER: &str = "manager";

/// What the agent's side has, and how it behaves.
#[derive(Default)]
pub struct Shelf {
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    /// Every piece that was asked for.
    pub asked: Vec<(Digest, u64)>,
    /// After this many pieces, the source is out of reach.
    pub pieces_left: Option<usize>,
    /// Answers for one digest with something else.
    pub instead: BTreeMap<Digest, Result<Vec<u8>, FetchError>>,
}

impl Shelf {
    fn answer(&mut self, what: Fetch) -> Result<Vec<u8>, FetchError> {
        let Fetch::Artifact { digest, offset, length } = what else { return Err(FetchError::NotFound) };
        assert!(length <= MAX_FETCH && length > 0, "asked for {length} bytes at once");
        self.asked.push((digest, offset));
        if let Some(left) = &mut self.pieces_left {
            *left = left.checked_sub(1).ok_or(FetchError::Unreachable)?;
        }
        if let Some(instead) = self.instead.get(&digest) {
            return instead.clone();
        }
        let blob = self.blobs.get(&digest).ok_or(FetchError::NotFound)?;
        let from = usize::try_from(offset).unwrap().min(blob.len());
        let to = (from + usize::try_from(length).unwrap()).min(blob.len());
        Ok(blob[from..to].to_vec())
    }
}

pub struct Device {
    pub dir: tempfile::TempDir,
    pub shelf: Arc<Mutex<Shelf>>,
    program: Vec<String>,
    options: Vec<String>,
    child: Option<Child>,
    from_apps: Option<(UnixStream, Receiver<AppsToUpdater>)>,
    from_agent_side: Option<Receiver<Vec<ApplicationStatus>>>,
    agent: Option<UnixStream>,
}

impl Device {
    /// A device whose `mbl-apps` does not run yet.
    pub fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // There is a service manager on every board. Whoever does not hear it makes the one who speaks wait.
        let manager = UnixDatagram::bind(dir.path().join(MANAGER)).unwrap();
        thread::spawn(move || while manager.recv(&mut [0; 64]).is_ok() {});
        Self {
            dir,
            shelf: Arc::default(),
            program: vec![env!("CARGO_BIN_EXE_mbl-apps").into()],
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            child: None,
            from_apps: None,
            from_agent_side: None,
            agent: None,
        }
    }

    /// A device that runs.
    pub fn running(options: &[&str]) -> Self {
        let mut device = Self::new(options);
        device.start();
        device
    }

    /// Runs `mbl-apps` through another program, as in `unshare --mount …`.
    pub fn through(mut self, program: &[&str]) -> Self {
        self.program.splice(0..0, program.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Starts `mbl-apps` without waiting for its socket.
    pub fn spawn(&mut self) {
        let mut words = self.program.iter();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("run").arg("--device-dir").arg(self.dir.path()).args(&self.options);
        command.env("NOTIFY_SOCKET", self.dir.path().join(MANAGER));
        self.child = Some(command.spawn().unwrap());
    }

    pub fn start(&mut self) {
        let socket = self.socket();
        drop(fs::remove_file(&socket));
        self.spawn();
        until("the socket", || UnixStream::connect(&socket).is_ok());
        self.connect();
    }

    /// Connects the agent's and the updater's side.
    pub fn connect(&mut self) {
        let (agent, mut reader) = dial(&self.socket(), Role::Agent);
        let shelf = Arc::clone(&self.shelf);
        let (tell, statuses) = channel();
        self.agent = Some(agent.try_clone().unwrap());
        thread::spawn(move || {
            let mut agent = agent;
            while let Some(message) = receive::<AppsToAgent>(&mut agent, &mut reader) {
                match message {
                    AppsToAgent::Fetch { id, what } => {
                        let result = shelf.lock().unwrap().answer(what);
                        say(&mut agent, &AgentToApps::Fetched(Fetched { id, result }));
                    }
                    AppsToAgent::Status(status) => drop(tell.send(status)),
                    // Whoever asks for a log does so on a connection of its own.
                    AppsToAgent::Log { .. } => {}
                }
            }
        });
        self.from_agent_side = Some(statuses);
        let (updater, mut reader) = dial(&self.socket(), Role::Updater);
        let (tell, hear) = channel();
        let mut from = updater.try_clone().unwrap();
        thread::spawn(move || {
            while let Some(message) = receive::<AppsToUpdater>(&mut from, &mut reader) {
                if tell.send(message).is_err() {
                    return;
                }
            }
        });
        self.from_apps = Some((updater, hear));
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/apps.sock")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state/apps")
    }

    /// Puts the blobs of `image` where the agent finds them.
    pub fn offer(&self, image: &Image) {
        self.shelf.lock().unwrap().blobs.extend(image.blobs.clone());
    }

    /// The agent hands on the settings of applications.
    pub fn configure(&mut self, applications: &[(&str, &str)]) {
        let given = |text: &str| GivenToApplication { settings: Some(text.to_owned()), ..Default::default() };
        self.give(applications.iter().map(|(name, text)| (*name, given(text))));
    }

    /// The agent hands on what applications are given.
    pub fn give<'a>(&mut self, applications: impl IntoIterator<Item = (&'a str, GivenToApplication)>) {
        let applications = applications.into_iter().map(|(name, given)| (name.parse().unwrap(), given)).collect();
        let settings = AppsSettings { log_level: None, applications };
        say(self.agent.as_mut().unwrap(), &AgentToApps::Settings(settings));
    }

    pub fn send(&mut self, message: UpdaterToApps) {
        say(&mut self.from_apps.as_mut().unwrap().0, &message);
    }

    /// The first thing that `mbl-apps` says to the updater and that `wanted` takes.
    pub fn hear<T>(&mut self, what: &str, mut wanted: impl FnMut(&AppsToUpdater) -> Option<T>) -> T {
        let until = Instant::now() + LIMIT;
        let mut last = String::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.from_apps.as_ref().unwrap().1.recv_timeout(left) {
                Ok(message) => match wanted(&message) {
                    Some(found) => return found,
                    None => last = format!("{message:?}"),
                },
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("never heard of {what}; the last message was {last}")
                }
            }
        }
    }

    pub fn prepare(&mut self, image: &Image) -> Result<Digest, Reason> {
        let release = image.release();
        self.send(UpdaterToApps::Prepare { release, applications: vec![image.spec.clone()] });
        self.prepared(release)
    }

    /// The answer to a wish to prepare or to run `release`.
    pub fn prepared(&mut self, release: Digest) -> Result<Digest, Reason> {
        let refused = self.hear("a prepared set", |message| match message {
            AppsToUpdater::Prepared { release: of, refused } if *of == release => Some(refused.clone()),
            _ => None,
        });
        refused.map_or(Ok(release), Err)
    }

    pub fn run(&mut self, image: &Image) {
        self.send(UpdaterToApps::Run { release: image.release(), applications: vec![image.spec.clone()] });
    }

    /// Waits until the only application of `image`'s set is as `wanted` says.
    pub fn status(
        &mut self,
        what: &str,
        image: &Image,
        mut wanted: impl FnMut(&ApplicationStatus) -> bool,
    ) -> ApplicationStatus {
        let wanted_release = image.release();
        self.hear(what, |message| match message {
            AppsToUpdater::Status { release: Some(release), applications } if *release == wanted_release => {
                applications.iter().find(|status| wanted(status)).cloned()
            }
            _ => None,
        })
    }

    pub fn ready(&mut self, image: &Image) -> ApplicationStatus {
        self.status("a ready application", image, |status| status.state == ApplicationState::Ready)
    }

    /// The statuses that the agent's side heard so far, newest last.
    pub fn agent_heard(&self, wait: Duration) -> Option<Vec<ApplicationStatus>> {
        self.from_agent_side.as_ref().unwrap().recv_timeout(wait).ok()
    }

    pub fn log(&self, name: &str) -> String {
        let read = |file: String| fs::read(self.state().join("logs").join(file)).unwrap_or_default();
        let mut bytes = read(format!("{name}.log.1"));
        bytes.extend(read(format!("{name}.log")));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A power cut, as far as the process is concerned.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// An orderly stop; how long it took.
    pub fn stop(&mut self) -> Duration {
        let Some(mut child) = self.child.take() else { return Duration::ZERO };
        let begun = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "mbl-apps ended with {status}");
        begun.elapsed()
    }

    /// What is left in the store, apart from what is always there.
    pub fn unpacked(&self) -> Vec<String> {
        names(&self.state().join("images"))
    }

    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Orderly, so that no container outlives a failed test.
            let pid = rustix::process::Pid::from_child(child);
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            drop(child.wait());
        }
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits for a fact that only shows when one looks.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    let (_never, tick) = channel::<()>();
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come true");
        let _tick = tick.recv_timeout(Duration::from_millis(20));
    }
}

pub fn dial(socket: &Path, role: Role) -> (UnixStream, FrameReader) {
    let mut stream = UnixStream::connect(socket).unwrap();
    say(&mut stream, &Greeting { protocol: PROTOCOL, role, version: "test".into() });
    let mut reader = FrameReader::new();
    let greeting: Greeting = receive(&mut stream, &mut reader).unwrap();
    assert_eq!((greeting.protocol, greeting.role), (PROTOCOL, Role::Apps));
    (stream, reader)
}

pub fn say(stream: &mut UnixStream, message: &impl Serialize) {
    // The other side may be gone already; whoever waits for an answer notices.
    drop(stream.write_all(&encode(message).unwrap()));
}

pub fn receive<M: DeserializeOwned>(stream: &mut UnixStream, reader: &mut FrameReader) -> Option<M> {
    loop {
        if let Some(message) = reader.take().unwrap() {
            return Some(message);
        }
        let mut piece = [0; 65_536];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => reader.push(&piece[..read]),
        }
    }
}
