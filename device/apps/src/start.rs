//! From settings to a running service: one lock, a namespace, no leftovers, then the socket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use protocol_types::Architecture;
use rustix::{
    fs::{FlockOperation, Timespec, flock},
    io::Errno,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tracing::{info, warn};

use crate::{
    config::{Places, Settings},
    container::{Bundle, Children, Runtime, RuntimeError, own_mount_namespace},
    image::Platform,
    service::{Event, LogLevels, Service},
    socket::{Listener, Peers},
    store::{Store, StoreError},
    supervise::{Policy, Workshop},
    sys,
};

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Containers need root.
    #[error("containers are made by root; this process runs as user {0}")]
    NotRoot(u32),
    /// Another process serves the same device.
    #[error("another process serves {}", .0.display())]
    Locked(PathBuf),
    /// Something of the system failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// A container of an earlier life cannot be removed.
    #[error("cannot remove what an earlier life left")]
    Leftover(#[from] RuntimeError),
    /// The processor is not one that has a name.
    #[error("the processor architecture has no proper name")]
    Architecture(#[from] protocol_types::NameError),
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Serves until SIGTERM or SIGINT. To be called before any thread is started.
pub fn serve(settings: &Settings, random: fn() -> u32, log_level: LogLevels) -> Result<(), StartError> {
    let uid = rustix::process::geteuid().as_raw();
    if uid != 0 {
        return Err(StartError::NotRoot(uid));
    }
    sys::keep_little_memory();
    own_mount_namespace().map_err(system("make a mount namespace"))?;
    let places = Places::of(&settings.device_dir).map_err(system("make the folders of the device"))?;
    let _lock = lock(&places.state)?;
    let workshop = workshop(settings, &places, random)?;
    clear_leftovers(&workshop)?;
    let store = Store::open(&places.state, settings.first_uid)?;
    let platform = Platform::of(&Architecture::new(std::env::consts::ARCH)?);
    let service = Service::build(store, (platform, settings.limits), workshop, log_level);
    let service = service.map_err(system("start the worker"))?;

    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(system("listen for signals"))?;
    let bell = service.bell();
    spawn("signals", move || signals.forever().take(1).for_each(|_| bell.ring(Event::Stop)))?;

    let peers = Peers { agent: settings.agent_uid.unwrap_or(uid), updater: uid };
    let listener = Listener::bind(&places.socket, peers).map_err(system("listen on the socket"))?;
    let bell = service.bell();
    spawn("listener", move || listener.serve(move |heard| bell.ring(Event::Heard(heard))))?;
    info!(socket = %places.socket.display(), "serving");
    service.run();
    tidy(&places);
    Ok(())
}

/// Leaves nothing in `/run`, unless an application did not stop: then its bundle is still there, and the next start needs to know.
fn tidy(places: &Places) {
    match fs::remove_dir(places.bundles()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!(%error, "something is left of an application"),
        _ => {
            let _kept = fs::remove_dir_all(&places.volatile);
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let thread = thread::Builder::new().name(name.into()).stack_size(128 * 1024).spawn(body);
    thread.map(drop).map_err(system("start a thread"))
}

fn workshop(settings: &Settings, places: &Places, random: fn() -> u32) -> Result<Workshop, StartError> {
    let children = Children::inherit().map_err(system("become the parent of orphans"))?;
    let own_program = std::env::current_exe().map_err(system("find this program"))?;
    let runtime = Runtime {
        program: settings.runtime.clone(),
        root: places.runtime_root(),
        host_network: settings.host_network.clone(),
        own_program,
        children: Arc::new(children),
    };
    Ok(Workshop {
        runtime,
        bundles: places.bundles(),
        logs: places.logs(),
        log_bytes: settings.log_bytes,
        cgroup_prefix: format!("{}/mbl-{}", settings.cgroup_parent.trim_end_matches('/'), places.instance),
        counts_swap: counts_swap(),
        resolv_conf: "/etc/resolv.conf".into(),
        policy: Policy::default(),
        random,
    })
}

/// How long a predecessor that was killed may take to be gone. A child that it had just made holds its lock until it becomes
/// another program.
const PREDECESSOR: Duration = Duration::from_secs(5);

/// Held as long as the process lives: two of them would remove each other's containers.
fn lock(state: &Path) -> Result<fs::File, StartError> {
    let path = state.join("lock");
    let file = fs::File::create(&path).map_err(system("make the lock file"))?;
    let until = Instant::now() + PREDECESSOR;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() >= until => return Err(StartError::Locked(path)),
            Err(Errno::WOULDBLOCK) => {
                let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                // Woken early by a signal, it only looks earlier.
                let _rest = rustix::thread::nanosleep(&pause);
            }
            Err(errno) => return Err(system("lock the state")(errno.into())),
        }
    }
}

/// Containers outlive a `mbl-apps` that was killed, but nobody reads what they write any more and nobody could tell how they
/// ended; so they are ended rather than adopted, and the updater's next wish starts what shall run.
fn clear_leftovers(workshop: &Workshop) -> Result<(), StartError> {
    for name in workshop.runtime.leftovers().map_err(system("list the containers"))? {
        warn!(application = %name, "an earlier life left a container; it is removed");
        // The others run all the same; whoever starts it again tries once more.
        if let Err(error) = workshop.runtime.delete(&name) {
            warn!(application = %name, %error, "cannot remove the container");
        }
    }
    let bundles = match fs::read_dir(&workshop.bundles) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bundles => bundles.map_err(system("list the bundles"))?,
    };
    for bundle in bundles {
        let bundle = Bundle::at(bundle.map_err(system("list the bundles"))?.path());
        if workshop.runtime.lives(&bundle) {
            // What it says keeps a second one from being started.
            warn!(bundle = %bundle.dir().display(), "an application of an earlier life has not ended yet");
        } else if let Err(error) = bundle.remove() {
            warn!(bundle = %bundle.dir().display(), %error, "cannot remove a bundle");
        }
    }
    Ok(())
}

/// Whether a memory limit can include swap: version 1 of control groups with swap accounting, or version 2 on a kernel with swap.
fn counts_swap() -> bool {
    let version_1 = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    let version_2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists() && Path::new("/proc/swaps").exists();
    version_1 || version_2
}
