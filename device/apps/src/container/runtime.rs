//! The OCI runtime's command line: create, start, exec, delete. `runc` and `crun` understand the same words.

use std::{
    ffi::OsStr,
    fs,
    io::{self, PipeWriter, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use protocol_types::{AppName, Network, ReasonCode};
use rustix::process::{Pid, PidfdFlags, Signal, getpgid, getpgrp, kill_process, kill_process_group, pidfd_open};

use super::{
    Bundle, Children,
    children::{Adopted, ended_within},
};
use crate::refusal::Coded;

/// A command of the runtime that failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It could not be started or waited for.
    #[error("cannot run {} to {what} the container", program.display())]
    Start {
        /// The runtime.
        program: PathBuf,
        /// Its word.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("the runtime could not {what} the container: {said}")]
    Failed {
        /// Its word.
        what: &'static str,
        /// The last line of its log.
        said: String,
    },
    /// It did not end in time and was killed.
    #[error("the runtime did not {what} the container within {limit_s} seconds")]
    TooSlow {
        /// Its word.
        what: &'static str,
        /// The limit.
        limit_s: u64,
    },
}

impl Coded for RuntimeError {
    fn code(&self) -> ReasonCode {
        match self {
            Self::Start { .. } => ReasonCode::Internal,
            Self::Failed { .. } | Self::TooSlow { .. } => ReasonCode::ApplicationNotReady,
        }
    }
}

/// How long one command may take: starting a container on a busy, slow processor takes seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// What sd_notify(3) is told by.
const OF_THE_MANAGER: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// A runtime and the folder of its state.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The runtime's program.
    pub program: PathBuf,
    /// Where it keeps its state.
    pub root: PathBuf,
    /// The device's network namespace, for the applications that may use it; `None`: the one of this process.
    pub host_network: Option<PathBuf>,
    /// This program, which enters a network namespace for the runtime (`mbl-apps enter-network`).
    pub own_program: PathBuf,
    /// Who reaps.
    pub children: Arc<Children>,
}

/// A container that exists. Its descriptor becomes readable when its first process ends.
#[derive(Debug)]
pub struct Container {
    id: AppName,
    network: Network,
    process: Adopted,
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Runtime {
    /// Makes the container, whose process then waits to be started. It writes to `output`.
    pub fn create(
        &self,
        id: &AppName,
        bundle: &Bundle,
        network: Network,
        output: &PipeWriter,
    ) -> Result<Container, RuntimeError> {
        let what = "create";
        let started = |source| RuntimeError::Start { program: self.program.clone(), what, source };
        let pid_file = bundle.pid_file();
        let mut command = self.command(network, &bundle.dir().join("runtime.log"));
        command.arg("create").arg("--bundle").arg(bundle.dir()).arg("--pid-file").arg(&pid_file).arg(id.as_str());
        command.stdout(output.try_clone().map_err(started)?).stderr(output.try_clone().map_err(started)?);
        self.run(what, command, bundle)?;
        let pid = read_pid(&pid_file).ok_or_else(|| RuntimeError::Failed { what, said: "no process id".into() })?;
        let process = self.children.adopt(pid).map_err(started)?;
        Ok(Container { id: id.clone(), network, process })
    }

    /// Lets the container's process run.
    pub fn start(&self, container: &Container, bundle: &Bundle) -> Result<(), RuntimeError> {
        let mut command = self.command(Network::None, &bundle.dir().join("runtime.log"));
        command.arg("start").arg(container.id.as_str());
        self.run("start", command, bundle)
    }

    /// Begins to run the ready check inside the container.
    pub fn exec(&self, container: &Container, bundle: &Bundle) -> Result<Exec, RuntimeError> {
        let what = "exec in";
        let started = |source| RuntimeError::Start { program: self.program.clone(), what, source };
        let pid_file = bundle.dir().join("ready.pid");
        let log = bundle.dir().join("ready.log");
        // The runtime adds to its log, and the check may come every second for as long as the application is not ready.
        for of_the_last in [&pid_file, &log] {
            let _absent = fs::remove_file(of_the_last);
        }
        let mut command = self.command(container.network, &log);
        command.arg("exec").arg("--process").arg(bundle.ready_file()).arg("--pid-file").arg(&pid_file);
        command.arg(container.id.as_str());
        let child = self.children.spawn(&mut command).map_err(started)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(|errno| started(errno.into()))?;
        Ok(Exec { child, pidfd, pid_file, children: Arc::clone(&self.children) })
    }

    /// Asks the container's first process to end; one that cannot hear it is killed at once, since waiting would not help.
    pub fn terminate(&self, container: &Container) {
        let can_hear = container.process.hears_terminate();
        container.process.signal(if can_hear { Signal::TERM } else { Signal::KILL });
    }

    /// Ends the container: when its first process dies, the kernel ends all others.
    pub fn kill(&self, container: &Container) {
        container.process.signal(Signal::KILL);
    }

    /// Reaps the ended process of a container; how it ended, in words.
    pub fn reap(&self, container: Container) -> String {
        self.children.reap(&container.process)
    }

    /// Gives up a container that does not end; [`Runtime::lives`] tells when it has.
    pub fn leave(&self, container: Container) {
        self.children.leave(container.process);
    }

    /// Waits at most `limit` for the container's first process to end.
    pub fn ends_within(&self, container: &Container, limit: Duration) -> bool {
        container.process.ends_within(limit)
    }

    /// Whether the first process of the container that was made from this bundle lives, be it of an earlier life of this program.
    pub fn lives(&self, bundle: &Bundle) -> bool {
        let Some(pid) = read_pid(&bundle.pid_file()) else { return false };
        // The number may be another process's by now.
        is_of(pid, bundle)
            && pidfd_open(pid, PidfdFlags::empty())
                .is_ok_and(|pidfd| matches!(ended_within(&pidfd, Duration::ZERO), Ok(false)))
    }

    /// Kills the container of this name, if there is one, and removes what the runtime knows of it.
    pub fn delete(&self, id: &AppName) -> Result<(), RuntimeError> {
        let what = "delete";
        if !self.root.join(id.as_str()).exists() {
            return Ok(());
        }
        let log = self.root.join(format!("{id}.delete.log"));
        let mut command = self.command(Network::None, &log);
        command.arg("delete").arg("--force").arg(id.as_str());
        let result = self.run_logged(what, command, &log);
        let _absent = fs::remove_file(&log);
        self.children.reap_orphans();
        result
    }

    /// The containers that an earlier life of this program left.
    pub fn leftovers(&self) -> io::Result<Vec<AppName>> {
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            // One that is overlooked would be in the way of its successor.
            entries => entries?
                .map(|entry| Ok(AppName::new(entry?.file_name().to_string_lossy().into_owned()).ok()))
                .filter_map(Result::transpose)
                .collect(),
        }
    }

    fn command(&self, network: Network, log: &Path) -> Command {
        let mut command = match (network, &self.host_network) {
            (Network::Host, Some(namespace)) => {
                let mut command = Command::new(&self.own_program);
                command.arg("enter-network").arg(namespace).arg("--").arg(&self.program);
                command
            }
            (Network::Host, None) | (Network::None, _) => Command::new(&self.program),
        };
        command.arg("--root").arg(&self.root).arg("--log").arg(log).arg("--log-format").arg("json");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // What our manager told us is for us: a runtime would pass its socket on, for which a verified image has no place.
        for variable in OF_THE_MANAGER {
            command.env_remove(variable);
        }
        // Signals for this process, as from a terminal, are not for the containers.
        command.process_group(0);
        command
    }

    fn run(&self, what: &'static str, command: Command, bundle: &Bundle) -> Result<(), RuntimeError> {
        self.run_logged(what, command, &bundle.dir().join("runtime.log"))
    }

    fn run_logged(&self, what: &'static str, mut command: Command, log: &Path) -> Result<(), RuntimeError> {
        let started = |source| RuntimeError::Start { program: self.program.clone(), what, source };
        let mut child = self.children.spawn(&mut command).map_err(started)?;
        match self.children.wait(&mut child, LIMIT).map_err(started)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                Err(RuntimeError::Failed { what, said: last_words(log).unwrap_or_else(|| status.to_string()) })
            }
            None => Err(RuntimeError::TooSlow { what, limit_s: LIMIT.as_secs() }),
        }
    }
}

/// A ready check that runs. Its descriptor becomes readable when it ends.
#[derive(Debug)]
pub struct Exec {
    child: Child,
    pidfd: OwnedFd,
    pid_file: PathBuf,
    children: Arc<Children>,
}

impl AsFd for Exec {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Exec {
    /// The result of a check that ended.
    pub fn finish(mut self) -> io::Result<Option<ExitStatus>> {
        self.children.wait(&mut self.child, Duration::from_secs(1))
    }

    /// Ends a check that takes too long: first its processes inside the container, then the runtime's command.
    pub fn abandon(mut self) {
        if let Some(pid) = read_pid(&self.pid_file) {
            // What it has started would go on in the container otherwise. Never this program's own group.
            let group = getpgid(Some(pid)).ok().filter(|group| *group != getpgrp());
            let _gone = match group {
                Some(group) => kill_process_group(group, Signal::KILL),
                None => kill_process(pid, Signal::KILL),
            };
        }
        // The command ends by itself now; after this time it is killed.
        let _status = self.children.wait(&mut self.child, Duration::from_secs(2));
        self.children.reap_orphans();
    }
}

/// Whether this process is in the control group of the container that was made from the bundle, which is called like it.
fn is_of(pid: Pid, bundle: &Bundle) -> bool {
    let Some(name) = bundle.dir().file_name().and_then(OsStr::to_str) else { return false };
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap_or_default();
    groups.lines().any(|line| line.ends_with(&format!("-{name}")))
}

fn read_pid(path: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?)
}

/// The message of the last line of a runtime's log, which is one JSON object a line.
fn last_words(log: &Path) -> Option<String> {
    const TAIL: u64 = 4096;
    let mut file = fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let line = bytes.split(|b| *b == b'\n').rfind(|line| !line.is_empty())?;
    let line: serde_json::Value = serde_json::from_slice(line).ok()?;
    Some(line.get("msg")?.as_str()?.to_owned())
}

/// Enters the network namespace at `path` and becomes `program`; returns only to say why it could not.
pub fn enter_network(path: &Path, program: &OsStr, args: &[std::ffi::OsString]) -> io::Error {
    let entered = fs::File::open(path).and_then(|namespace| {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?)
    });
    match entered {
        Ok(()) => Command::new(program).args(args).exec(),
        Err(error) => error,
    }
}
