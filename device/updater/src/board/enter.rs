//! Where each process runs: its user, its network, its life bound to the board's. Never starts a process itself: the board starts
//! its own program once more, which goes to its place and then becomes the process.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown, lchown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    process::{Gid, Signal, Uid, getppid, set_parent_process_death_signal},
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::BoardConfig;

/// The three processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// `mbl-updater`.
    Updater,
    /// `mbl-apps`.
    Apps,
    /// `mbl-agent`.
    Agent,
}

impl Role {
    /// All, the listeners first.
    pub(super) const ALL: [Self; 3] = [Self::Updater, Self::Apps, Self::Agent];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Updater => "updater",
            Self::Apps => "apps",
            Self::Agent => "agent",
        }
    }

    pub(super) const fn program(self, config: &BoardConfig) -> &PathBuf {
        match self {
            Self::Updater => &config.updater,
            Self::Apps => &config.apps,
            Self::Agent => &config.agent,
        }
    }

    /// How the board's own program is called so that it becomes this process.
    pub(super) fn command(self, config: &BoardConfig) -> Vec<OsString> {
        let board = std::process::id();
        let mut words = texts(&["enter", "--board-pid", &board.to_string()]);
        let mut device_dir = config.device_dir.clone();
        match (self, config.agent_uid) {
            (Self::Agent, Some(uid)) => {
                words.extend(texts(&["--uid", &uid.to_string()]));
                // The agent starts inside of the folder, and may not be able to walk there from the root.
                device_dir = PathBuf::from(".");
            }
            (Self::Updater | Self::Apps, Some(_)) => words.extend(texts(&["--no-network"])),
            (_, None) => {}
        }
        words.extend([
            "--".into(),
            self.program(config).into(),
            "run".into(),
            "--device-dir".into(),
            device_dir.into(),
        ]);
        match self {
            Self::Agent => return words,
            Self::Updater => words.extend(texts(&["--board", "host"])),
            Self::Apps => words.extend(texts(&["--runtime", &config.runtime])),
        }
        if let Some(uid) = config.agent_uid {
            words.extend(texts(&["--agent-uid", &uid.to_string()]));
            if self == Self::Apps {
                words.extend(texts(&["--host-network", &format!("/proc/{board}/ns/net")]));
            }
        }
        words
    }
}

fn texts(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// A place that a process could not go to.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A system call refused.
    #[error("cannot {doing}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The board ended before this process was bound to its life.
    #[error("the board is gone")]
    BoardGone,
    /// The program cannot be run.
    #[error("cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Goes to the place of a process and becomes `program` with its arguments; returns only if that fails. Must be called while
/// there is one thread.
pub fn enter(board: u32, uid: Option<u32>, no_network: bool, program: (&OsString, &[OsString])) -> EnterError {
    match go(board, uid, no_network) {
        Ok(()) => {
            let source = Command::new(program.0).args(program.1).exec();
            EnterError::Run { program: program.0.into(), source }
        }
        Err(e) => e,
    }
}

fn go(board: u32, uid: Option<u32>, no_network: bool) -> Result<(), EnterError> {
    let refused = |doing| move |source| EnterError::Refused { doing, source };
    let errno = |doing| move |e: rustix::io::Errno| EnterError::Refused { doing, source: e.into() };
    if no_network {
        crate::sys::leave_network().map_err(refused("leave the network"))?;
    }
    if let Some(id) = uid {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        set_thread_groups(&[]).map_err(errno("leave all groups"))?;
        set_thread_res_gid(gid, gid, gid).map_err(errno("change the group"))?;
        set_thread_res_uid(uid, uid, uid).map_err(errno("change the user"))?;
        set_no_new_privs(true).map_err(errno("give up new privileges"))?;
    }
    // After the change of user, which would undo it. A process must never outlive its board: after a restart there would be two.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(errno("bind to the life of the board"))?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent == Some(board) { Ok(()) } else { Err(EnterError::BoardGone) }
}

/// Gives the agent its own part of the state, its key and a look at the logs, and keeps the rest of the key store from it: whoever owns that folder
/// could replace the floor and the recorded digest of the factory document.
pub(super) fn give_to_agent(device_dir: &Path, uid: u32) -> io::Result<()> {
    fs::set_permissions(device_dir, fs::Permissions::from_mode(0o711))?;
    let keys = device_dir.join("keys");
    chown(&keys, Some(0), Some(0))?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o711))?;
    for (name, owner, mode) in [("device-key.pem", uid, 0o400), ("factory.sha256", 0, 0o444)] {
        let path = keys.join(name);
        match lchown(&path, Some(owner), Some(owner)) {
            Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(mode))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    let log = device_dir.join("log");
    // It hands in the end of a log when the service asks for that. New files take the group of the folder.
    chown(&log, Some(0), Some(uid))?;
    fs::set_permissions(&log, fs::Permissions::from_mode(0o2751))?;
    for entry in fs::read_dir(&log)? {
        lchown(entry?.path(), None, Some(uid))?;
    }
    give_tree(&device_dir.join("state/agent"), uid)
}

/// Changes the owner of a folder and everything in it: of links themselves, and never of what they point to.
fn give_tree(path: &Path, uid: u32) -> io::Result<()> {
    lchown(path, Some(uid), Some(uid))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give_tree(&entry?.path(), uid)?;
        }
    }
    Ok(())
}
