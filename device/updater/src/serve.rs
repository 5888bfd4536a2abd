//! The process `mbl-updater run`: lets the updater hear and work in turn, and stops when it asks for a restart. Never decides anything.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;
use protocol_types::{
    BoardName, BootRecord, Heartbeat, LogLevel, Reason, ReasonCode, UnixSeconds, UpdateStatus,
    boot_record::BootRecordError,
};
use rustix::{
    fs::{FlockOperation, Timespec, flock},
    io::Errno,
    thread::nanosleep,
};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::{
    booted::{self, BootedError, Started},
    cmdline::{Cmdline, CmdlineError},
    disk::{DeviceDisk, Devices, DevicesError, Disk, FileDisk, OpenError},
    files::read_at_most,
    firmware,
    hearing::hear,
    key_store::{self, HardwareError, KeyStore},
    perform::{Turn, Updater},
    plan::{Fact, Running},
    settings::Place,
    socket::{Event, LinkError, Links, Listener, SOCKET, keep_apps},
    speakers::{STATUS, Speakers},
    starts::Starts,
    storage::{Storage, StorageError},
    trust::{Trust, factory_document},
    window::Window,
};

/// Messages that wait to be looked at; a peer that says more waits itself.
const WAITING_EVENTS: usize = 32;
/// Without anything to wait for, the clock is looked at this often.
const IDLE: Duration = Duration::from_secs(3600);
/// How often a window that opens and closes is looked at.
const MINUTE: Duration = Duration::from_secs(60);

/// The initrd's account of this boot, on a real board.
pub(crate) const BOOT_RECORD: &str = "run/boot.json";
/// Held as long as the updater of a device runs.
const LOCK: &str = "state/updater/lock";
/// How long another may have it: `mbl-updater status` does for a moment, to see whether somebody runs.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries to get it.
const LOCK_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What the process is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The device's folder.
    pub device_dir: PathBuf,
    /// The board; the factory document must name the same.
    pub board: BoardName,
    /// The user that the agent runs as.
    pub agent_uid: u32,
    /// A random number.
    pub spread: u64,
    /// What the board is made of.
    pub hardware: Hardware,
}

impl Config {
    /// Where the settings of this device are rendered.
    fn place(&self) -> Place {
        let root = match &self.hardware {
            Hardware::Files => Path::new("/"),
            Hardware::Devices { root, .. } => root,
        };
        Place { device_dir: self.device_dir.clone(), root: root.to_owned() }
    }
}

/// What a board is made of.
#[derive(Clone, Debug)]
pub enum Hardware {
    /// Files: the board `host`.
    Files,
    /// A disk with two slots, and a key store in hardware.
    Devices {
        /// The root of the running system, with the folders in which the kernel shows the disk.
        root: PathBuf,
        /// The key store.
        key_store: key_store::Hardware,
    },
}

/// A process that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The device folder has no usable disk.
    #[error("cannot open the storage of the device")]
    Open(#[from] OpenError),
    /// Another one is at work on this device.
    #[error("another mbl-updater works on this device")]
    Locked(#[source] io::Error),
    /// The board has no usable disk.
    #[error("cannot open the disk of the board")]
    Devices(#[from] DevicesError),
    /// The board has no key store.
    #[error("cannot open the key store of the board")]
    KeyStore(#[from] HardwareError),
    /// There is no account of what was booted.
    #[error("cannot read {}", path.display())]
    Account {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The loader's account cannot be understood.
    #[error("cannot tell what was booted")]
    Booted(#[from] CmdlineError),
    /// The initrd's account cannot be understood.
    #[error("cannot tell from {} what was booted", BootRecord::PATH)]
    Record(#[from] BootRecordError),
    /// The initrd's account does not fit the boot partition.
    #[error("cannot tell which boot entry was booted")]
    Entry(#[from] BootedError),
    /// The state cannot be read.
    #[error("cannot read the state of the device")]
    Storage(#[from] StorageError),
    /// The socket cannot be made.
    #[error("cannot listen for the agent")]
    Listen(#[from] LinkError),
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What the process has from whoever started it.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Says what the device's clock says.
    pub now: &'a dyn Fn() -> UnixSeconds,
    /// Changes how much the process says; without a level, as it was started.
    pub log_level: &'a dyn Fn(Option<LogLevel>),
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Serves until a restart of the device is due.
///
/// # Errors
/// If the process cannot start.
pub fn serve(config: &Config, around: Surroundings<'_>) -> Result<(), ServeError> {
    let device_dir = &config.device_dir;
    match &config.hardware {
        Hardware::Files => {
            let storage = Storage::new(FileDisk::open(device_dir)?);
            let cmdline = Cmdline::parse(&account(&device_dir.join("run/cmdline"), Cmdline::MAX_BYTES)?)?;
            serve_on(config, storage, KeyStore::Files, Running::from_cmdline(&cmdline), around)
        }
        Hardware::Devices { root, key_store } => {
            let record = account(&device_dir.join(BOOT_RECORD), BootRecord::MAX_BYTES)?;
            let record = BootRecord::parse(&record)?;
            let devices = Devices::below(root);
            let storage = Storage::new(DeviceDisk::open(&devices, record.slot, record.root_hash, device_dir)?);
            let os_release = account(&root.join(booted::OS_RELEASE), booted::MAX_OS_RELEASE)?;
            let running = Running::from_record(&record, &os_release, &storage.entries()?)?;
            let firmware = firmware::running(&storage).unwrap_or_else(|e| {
                warn!(reason = %Reason::from(&e), "cannot tell which firmware runs");
                None
            });
            let running = Running { firmware, ..running };
            serve_on(config, storage, key_store.open()?, running, around)
        }
    }
}

/// How the system was started, by the initrd's account of this boot.
pub fn started(device_dir: &Path) -> Started {
    account(&device_dir.join(BOOT_RECORD), BootRecord::MAX_BYTES)
        .map_or(Started::Unknown, |bytes| Started::from_account(&bytes))
}

fn serve_on<D: Disk>(
    config: &Config,
    storage: Storage<D>,
    keys: KeyStore,
    running: Running,
    around: Surroundings<'_>,
) -> Result<(), ServeError> {
    let device_dir = &config.device_dir;
    let _lock = lock(&device_dir.join(LOCK)).map_err(ServeError::Locked)?;
    let trust = load_trust(&storage, keys, config);
    if let Err(reason) = &trust {
        error!(%reason, "this device installs nothing");
    }
    let (events, arrivals) = mpsc::sync_channel(WAITING_EVENTS);
    let links = Links::default();
    let speakers = Speakers::new(links.clone(), config.place());
    info!(slot = %running.slot, generation = running.generation, root = %running.root, "updater started");
    let updater = Updater::start(storage, speakers, trust, running, config.spread)?;
    let listener = Listener::bind(&device_dir.join(SOCKET), config.agent_uid)?;
    // Dropped at the end of this function, which is how the dialling thread learns of it; the process ends right after.
    let (_running, stop) = mpsc::channel();
    start_threads((listener, device_dir.join("run/apps.sock")), &links, &events, stop).map_err(ServeError::Thread)?;
    let mut starts = Starts::of(device_dir);
    // A trial in place counts its starts itself, and comes to an end by that.
    if updater.record().pending.is_some() {
        starts.forget();
    }
    Starts::forget_at_the_end(device_dir).map_err(ServeError::Thread)?;
    work(updater, &arrivals, starts, around);
    Ok(())
}

/// An account of what was booted.
fn account(path: &Path, limit: usize) -> Result<Vec<u8>, ServeError> {
    read_at_most(path, limit).map_err(|source| ServeError::Account { path: path.to_owned(), source })
}

fn load_trust<D: Disk>(storage: &Storage<D>, mut keys: KeyStore, config: &Config) -> Result<Trust, Reason> {
    let factory = factory_document(storage, &mut keys, &config.device_dir)?;
    if factory.board != config.board {
        let text = format!("the factory document is for the board {}, this is {}", factory.board, config.board);
        return Err(Reason::new(ReasonCode::StateDamaged, text));
    }
    Trust::load(storage, keys, &factory)
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                // Woken early by a signal, it only tries earlier.
                let _rest = nanosleep(&LOCK_PAUSE);
            }
            locked => {
                locked?;
                return Ok(file);
            }
        }
    }
}

/// What the updater of the device in `device_dir` reported last; none if no updater runs there.
///
/// # Errors
/// If the report cannot be read.
pub fn last_status(device_dir: &Path) -> io::Result<Option<UpdateStatus>> {
    let lock = match File::open(device_dir.join(LOCK)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // A report that nobody stands behind any more says nothing.
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(None);
    }
    let text = read_at_most(&device_dir.join(STATUS), 1024 * 1024)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

fn start_threads(
    (listener, apps): (Listener, PathBuf),
    links: &Links,
    events: &SyncSender<Event>,
    stop: Receiver<()>,
) -> io::Result<()> {
    let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(run).map(drop)
    };
    let (own_links, own_events) = (links.clone(), events.clone());
    start("listener", Box::new(move || listener.serve(&own_links, &own_events)))?;
    let (links, events) = (links.clone(), events.clone());
    start("apps", Box::new(move || keep_apps(&apps, &links, &events, &stop)))
}

/// The loop: hears, then works, then waits.
fn work<D: Disk>(
    mut updater: Updater<D, Speakers>,
    arrivals: &Receiver<Event>,
    mut starts: Starts,
    around: Surroundings<'_>,
) {
    let start = Instant::now();
    let (mut window, mut was_open) = (Window::always(TimeZone::system()), true);
    let mut heartbeat = Heartbeat::new(sd_notify::watchdog_enabled());
    tell_manager(NotifyState::Ready);
    loop {
        if heartbeat.beat(start.elapsed()) {
            tell_manager(NotifyState::Watchdog);
        }
        let lasts_in = starts.look(start.elapsed());
        updater.time(start.elapsed(), (around.now)());
        let is_open = window.is_open(updater.now());
        if is_open != was_open && updater.has_room() {
            info!(is_open, "the update window has opened or closed");
            updater.tell(Fact::Window(is_open));
            was_open = is_open;
        }
        match updater.turn() {
            Turn::Again => {}
            Turn::Reboot => return starts.forget(),
            Turn::Wait(until) => {
                let limit = until.map_or(IDLE, |until| until.saturating_sub(start.elapsed()).min(IDLE));
                let limit = lasts_in.map_or(limit, |wait| wait.min(limit));
                let limit = heartbeat.wait(start.elapsed()).map_or(limit, |wait| wait.min(limit));
                let limit = if window.is_bounded() { limit.min(MINUTE) } else { limit };
                // At least once a minute, as somebody may set the clock.
                let limit = updater.question_ends_in().map_or(limit, |wait| wait.min(MINUTE).min(limit));
                match arrivals.recv_timeout(limit) {
                    Ok(event) => hear(&mut updater, &mut window, event, around),
                    Err(RecvTimeoutError::Timeout) => {}
                    // The listener ends with the process only.
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
        // One at a time, so that who talks much waits himself instead of filling the memory.
        if updater.has_room()
            && let Ok(event) = arrivals.try_recv()
        {
            hear(&mut updater, &mut window, event, around);
        }
    }
}

/// Without a manager, as on the board `host`, nobody is told.
fn tell_manager(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        warn!(cause = %e, "the service manager does not listen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_only_looks_does_not_keep_the_updater_from_starting_and_another_updater_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let looking = File::create(&path).unwrap();
        flock(&looking, FlockOperation::NonBlockingLockShared).unwrap();
        let (tell, hear) = mpsc::channel();
        let starting = path.clone();
        thread::spawn(move || tell.send(lock(&starting)).unwrap());
        let early = hear.recv_timeout(Duration::from_millis(100));
        assert!(matches!(early, Err(RecvTimeoutError::Timeout)), "it did not wait: {early:?}");
        drop(looking);
        let _held = hear.recv().unwrap().unwrap();
        assert_eq!(lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
