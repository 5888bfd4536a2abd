//! The processes that this one must reap: the runtime's commands, the containers' first processes, and orphans.
//!
//! As a child subreaper, `mbl-apps` inherits a container's first process when the runtime's `create` ends, so it learns of its
//! end from the kernel. It also inherits what a command that had to be killed leaves behind.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper,
        waitid,
    },
};

/// How long a command that was killed may take to be gone; one that is stuck in the kernel is left to itself.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Every process whose end somebody waits for; any other child that ended is reaped in passing.
#[derive(Debug, Default)]
pub struct Children {
    known: Mutex<HashSet<Pid>>,
}

impl Children {
    /// Makes this process inherit orphans below it.
    pub fn inherit() -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        Ok(Self::default())
    }

    /// Starts a command.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // Held while starting, so that a child is known before anybody can mistake it for an orphan.
        let mut known = self.lock();
        let child = command.spawn()?;
        known.insert(Pid::from_child(&child));
        Ok(child)
    }

    /// Waits for a command at most `limit`, after which it is killed; its status, or `None` if it had to be killed.
    pub fn wait(&self, child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let pid = Pid::from_child(child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty());
        let ended = |limit| pidfd.as_ref().map_err(|errno| *errno).and_then(|pidfd| ended_within(pidfd, limit));
        let in_time = ended(limit);
        let mut is_gone = matches!(in_time, Ok(true));
        if !is_gone {
            child.kill()?;
            is_gone = !matches!(ended(KILL_LIMIT), Ok(false));
        }
        let status = if is_gone { child.wait().map(Some) } else { Ok(None) };
        self.lock().remove(&pid);
        let in_time = in_time?;
        Ok(status?.filter(|_| in_time))
    }

    /// Takes over the first process of a container.
    pub fn adopt(&self, pid: Pid) -> io::Result<Adopted> {
        self.lock().insert(pid);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            self.lock().remove(&pid);
        })?;
        Ok(Adopted { pid, pidfd })
    }

    /// Reaps an adopted process that ended; how it ended, in words.
    pub fn reap(&self, process: &Adopted) -> String {
        let status = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED);
        self.lock().remove(&process.pid);
        match status {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("ended with status {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "ended".into(),
            },
            // Not our child, as after a runtime that keeps its own process in between.
            Ok(None) | Err(_) => "ended".into(),
        }
    }

    /// Nobody waits for an adopted process any more: when it ends, it is reaped in passing.
    pub fn leave(&self, process: Adopted) {
        self.lock().remove(&process.pid);
    }

    /// Reaps children that ended and that nobody waits for. The kernel lists children by thread; where it was built without
    /// that list, an orphan stays a zombie until this process ends.
    pub fn reap_orphans(&self) {
        let known = self.lock();
        let Ok(threads) = fs::read_dir("/proc/self/task") else { return };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)) {
                if !known.contains(&pid) {
                    // Fails if it still runs or is gone: both are fine.
                    let _ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first process of a container. Its descriptor becomes readable when it ends.
#[derive(Debug)]
pub struct Adopted {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Adopted {
    /// Sends a signal; a process that is gone already is fine.
    pub fn signal(&self, signal: Signal) {
        let _gone = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Whether a request to end can reach the process: it catches the signal or waits for it blocked. The kernel drops any other
    /// for the first process of a pid namespace (`pid_namespaces(7)`).
    pub fn hears_terminate(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero())).unwrap_or_default();
        status
            .lines()
            .filter_map(|line| line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigBlk:")))
            .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .any(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
    }

    /// Waits at most `limit` for the process to end.
    pub fn ends_within(&self, limit: Duration) -> bool {
        matches!(ended_within(&self.pidfd, limit), Ok(true))
    }
}

impl AsFd for Adopted {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

pub(super) fn ended_within(pidfd: &OwnedFd, limit: Duration) -> rustix::io::Result<bool> {
    let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit))).map(|ready| ready > 0)
}
