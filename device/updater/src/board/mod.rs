//! The board `host`: boots a device folder by the loader's rules and supervises its three processes, as the loader and systemd do
//! on a board with a kernel. Never writes a slot, and never decides about an update.

mod enter;
mod log;
mod process;
mod signals;

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use enter::Role;
pub use enter::{EnterError, enter};
pub use log::CappedLog;
use process::{Ended, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
pub use signals::Signals;
use tracing::{error, info, warn};

use crate::{
    cmdline::Cmdline,
    disk::{FileDisk, OpenError, forget},
    loader::{self, BootError},
    storage::Storage,
};

/// The exit status with which `mbl-updater` asks for a restart of the device.
pub const REBOOT_STATUS: u8 = 75;
/// How long a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause before a device that crashed is booted again.
const CRASH_PAUSE: Duration = Duration::from_secs(30);

/// Where everything is.
#[derive(Clone, Debug)]
pub struct BoardConfig {
    /// The device's folder, as an absolute path.
    pub device_dir: PathBuf,
    /// This program, which starts the others in their places.
    pub board: PathBuf,
    /// `mbl-agent`.
    pub agent: PathBuf,
    /// `mbl-updater`.
    pub updater: PathBuf,
    /// `mbl-apps`.
    pub apps: PathBuf,
    /// The OCI runtime.
    pub runtime: String,
    /// The user that the agent runs as; none if this program is not run by root and everything runs as one user.
    pub agent_uid: Option<u32>,
}

/// A board that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The device folder has no usable disk.
    #[error("cannot open the storage of the device")]
    Storage(#[from] OpenError),
    /// Nothing boots.
    #[error("the device does not boot")]
    Boot(#[from] BootError),
    /// A file or folder cannot be prepared.
    #[error("cannot {doing} {}", path.display())]
    Folder {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A process cannot be started at all.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("cannot wait for the processes")]
    Wait(#[source] io::Error),
}

/// Why one boot came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Somebody stopped the board.
    Stopped,
    /// The updater asked for it.
    Reboot,
    /// A process kept ending at once.
    Crashed,
}

/// Boots the device, again and again, until somebody stops the board.
///
/// # Errors
/// If nothing boots or the device folder cannot be used.
pub fn run(config: &BoardConfig, signals: &Signals) -> Result<(), BoardError> {
    let mut crashes = 0u32;
    loop {
        let state = config.device_dir.join("state");
        let forgotten = forget::forget_if_asked(&state);
        if forgotten.map_err(|source| BoardError::Folder { doing: "empty", path: state, source })? {
            warn!("factory reset: the state is new");
        }
        let mut storage = Storage::new(FileDisk::open(&config.device_dir)?);
        let cmdline = loader::boot(&mut storage)?;
        drop(storage);
        info!(entry = %cmdline.entry, root = %cmdline.root, version = cmdline.os_version(), "booted");
        prepare(config, &cmdline)?;
        match run_system(config, signals)? {
            End::Stopped => return Ok(()),
            End::Reboot => crashes = 0,
            End::Crashed => {
                let pause = Duration::from_secs(1 << crashes.min(5)).min(CRASH_PAUSE);
                crashes = crashes.saturating_add(1);
                error!(entry = %cmdline.entry, pause_s = pause.as_secs(), "the system crashed");
                if signals.arrives_within(pause).map_err(BoardError::Wait)? {
                    return Ok(());
                }
            }
        }
        info!("restarting");
    }
}

/// Makes `run/` as new as after a power-on, says what was booted, and gives the agent what is the agent's.
fn prepare(config: &BoardConfig, cmdline: &Cmdline) -> Result<(), BoardError> {
    let at = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| BoardError::Folder { doing, path, source }
    };
    let run = config.device_dir.join("run");
    clear(&run).map_err(at("clear", &run))?;
    for name in ["run", "log", "keys", "state/agent", "state/updater", "state/apps"] {
        let folder = config.device_dir.join(name);
        fs::create_dir_all(&folder).map_err(at("make", &folder))?;
    }
    for (name, text) in [("cmdline", cmdline.to_string()), ("booted", format!("{}\n", cmdline.entry))] {
        let path = run.join(name);
        fs::write(&path, text).map_err(at("write", &path))?;
    }
    match config.agent_uid {
        Some(uid) => enter::give_to_agent(&config.device_dir, uid).map_err(at("share", &config.device_dir)),
        None => Ok(()),
    }
}

/// Removes a folder. Processes of a board that was killed a moment ago may still be dying, and leave something behind meanwhile.
fn clear(folder: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(folder) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && tries < 10 => tries += 1,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => return Ok(()),
        }
    }
}

/// Runs the three processes until the boot comes to its end; none of them runs afterwards.
fn run_system(config: &BoardConfig, signals: &Signals) -> Result<End, BoardError> {
    let mut processes = Role::ALL.map(|role| Process::new(role, config));
    let end = supervise(&mut processes, signals);
    stop(&mut processes).map_err(BoardError::Wait)?;
    end
}

fn supervise(processes: &mut [Process], signals: &Signals) -> Result<End, BoardError> {
    loop {
        let now = Instant::now();
        for process in processes.iter_mut() {
            process.start_if_due(now)?;
        }
        if signals.arrived().map_err(BoardError::Wait)? {
            return Ok(End::Stopped);
        }
        let due = processes.iter().filter_map(Process::due).min();
        wait(processes, Some(signals), due).map_err(BoardError::Wait)?;
        for process in processes.iter_mut() {
            process.take_output();
            match process.ended(Instant::now()).map_err(BoardError::Wait)? {
                Ended::Not | Ended::Again => {}
                Ended::Reboot => return Ok(End::Reboot),
                Ended::Crashing => {
                    warn!(process = process.name(), "process keeps ending within its first second");
                    return Ok(End::Crashed);
                }
            }
        }
    }
}

/// Stops what runs: politely first.
fn stop(processes: &mut [Process]) -> io::Result<()> {
    let until = Instant::now() + STOP_LIMIT;
    for process in processes.iter() {
        process.terminate();
    }
    loop {
        let mut runs = false;
        for process in processes.iter_mut() {
            process.take_output();
            runs |= !process.is_over()?;
        }
        if !runs {
            return Ok(());
        }
        if Instant::now() >= until {
            break;
        }
        wait(processes, None, Some(until))?;
    }
    processes.iter_mut().try_for_each(Process::kill)
}

/// Waits until a process ends or says something, a signal arrives, or it is `until`.
fn wait(processes: &[Process], signals: Option<&Signals>, until: Option<Instant>) -> io::Result<()> {
    let mut waited: Vec<PollFd<'_>> = processes
        .iter()
        .flat_map(Process::descriptors)
        .chain(signals.map(AsFd::as_fd))
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let limit = until.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(&mut waited, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
