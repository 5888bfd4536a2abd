//! One supervised process: started, listened to, started again when it ends by itself. Never knows what it is for.

use std::{
    ffi::OsString,
    io::{self, PipeReader, Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tracing::{info, warn};

use super::{BoardConfig, BoardError, CappedLog, REBOOT_STATUS, Role};

/// An end within this time after the start is a crash.
const QUICK: Duration = Duration::from_secs(1);
/// So many crashes in a row mean that the system is broken.
const CRASHES: u32 = 5;
/// The first and the longest wait before a process that ended is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Whether a process ended, and what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It did not.
    Not,
    /// It is started again.
    Again,
    /// It is the updater, and asks for a restart of the device.
    Reboot,
    /// It ended at once, once too often.
    Crashing,
}

/// A process that shall run.
#[derive(Debug)]
pub(super) struct Process {
    role: Role,
    program: PathBuf,
    command: Vec<OsString>,
    board: PathBuf,
    folder: PathBuf,
    log: CappedLog,
    output: Option<PipeReader>,
    running: Option<Running>,
    due: Instant,
    /// Ends in a row that came within the first second.
    crashes: u32,
    /// Ends since it last ran well.
    ends: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    pidfd: OwnedFd,
    since: Instant,
}

impl Process {
    pub(super) fn new(role: Role, config: &BoardConfig) -> Self {
        let log = CappedLog::new(config.device_dir.join("log").join(format!("{}.log", role.name())));
        Self {
            role,
            program: role.program(config).clone(),
            command: role.command(config),
            board: config.board.clone(),
            folder: config.device_dir.clone(),
            log,
            output: None,
            running: None,
            due: Instant::now(),
            crashes: 0,
            ends: 0,
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.role.name()
    }

    /// When it must be started; none while it runs.
    pub(super) fn due(&self) -> Option<Instant> {
        self.running.is_none().then_some(self.due)
    }

    /// Readable when it ended or said something.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ended = self.running.as_ref().map(|running| running.pidfd.as_fd());
        ended.into_iter().chain(self.output.as_ref().map(|output| output.as_fd()))
    }

    pub(super) fn start_if_due(&mut self, now: Instant) -> Result<(), BoardError> {
        if self.running.is_some() || now < self.due {
            return Ok(());
        }
        self.start(now).map_err(|source| BoardError::Start { program: self.program.clone(), source })
    }

    fn start(&mut self, now: Instant) -> io::Result<()> {
        let (output, input) = io::pipe()?;
        let mut child = Command::new(&self.board)
            .args(&self.command)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input)
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let opened = pid.ok_or(rustix::io::Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = match opened {
            Ok(pidfd) => pidfd,
            Err(e) => {
                // A process that cannot be watched must not run.
                child.kill()?;
                child.wait()?;
                return Err(e.into());
            }
        };
        info!(process = self.name(), pid = child.id(), "process started");
        self.output = Some(output);
        self.running = Some(Running { child, pidfd, since: now });
        Ok(())
    }

    /// Moves what it said into its log.
    pub(super) fn take_output(&mut self) {
        let mut piece = [0; 16 * 1024];
        while let Some(output) = &mut self.output {
            if !is_readable(output.as_fd()) {
                return;
            }
            match output.read(&mut piece) {
                Ok(read @ 1..) => {
                    if self.log.write_all(piece.get(..read).unwrap_or_default()).is_err() || read < piece.len() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.output = None,
            }
        }
    }

    /// Notices that it ended, and plans its next start.
    pub(super) fn ended(&mut self, now: Instant) -> io::Result<Ended> {
        let Some(running) = &mut self.running else { return Ok(Ended::Not) };
        let Some(status) = running.child.try_wait()? else { return Ok(Ended::Not) };
        let lived = now.saturating_duration_since(running.since);
        self.running = None;
        self.take_output();
        if self.role == Role::Updater && status.code() == Some(REBOOT_STATUS.into()) {
            info!("the updater asks for a restart");
            return Ok(Ended::Reboot);
        }
        Ok(self.plan_start(status, lived, now))
    }

    fn plan_start(&mut self, status: ExitStatus, lived: Duration, now: Instant) -> Ended {
        self.crashes = if lived < QUICK { self.crashes + 1 } else { 0 };
        self.ends = if lived > BACK_OFF.1 { 1 } else { self.ends + 1 };
        let wait = BACK_OFF.0.saturating_mul(1 << (self.ends - 1).min(16)).min(BACK_OFF.1);
        self.due = now + wait;
        let (lived_ms, again_ms) = (lived.as_millis(), wait.as_millis());
        warn!(process = self.name(), %status, lived_ms, again_ms, "process ended");
        if self.crashes >= CRASHES { Ended::Crashing } else { Ended::Again }
    }

    /// Asks it to stop.
    pub(super) fn terminate(&self) {
        if let Some(running) = &self.running
            && let Err(e) = pidfd_send_signal(&running.pidfd, Signal::TERM)
        {
            warn!(process = self.name(), cause = %e, "cannot ask the process to stop");
        }
    }

    /// Whether it does not run (any more).
    pub(super) fn is_over(&mut self) -> io::Result<bool> {
        let Some(running) = &mut self.running else { return Ok(true) };
        let over = running.child.try_wait()?.is_some();
        if over {
            self.running = None;
            self.take_output();
        }
        Ok(over)
    }

    /// Ends it.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        if let Some(mut running) = self.running.take() {
            warn!(process = self.name(), "process did not stop in time and is killed");
            running.child.kill()?;
            running.child.wait()?;
        }
        Ok(())
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}
