//! Starts one of the initrd's programs and waits for it, for a bounded time, or until it serves. Never passes a secret as an argument.

use std::{
    io,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::kernel;

/// The longest that a program may take. A sign of life is shown before each, so it is less than the watchdog waits.
pub const LONGEST: Duration = Duration::from_secs(100);
const _: () = assert!(LONGEST.as_secs() < kernel::WITHOUT_LIFE.as_secs());

/// A program that did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started or waited for.
    #[error("cannot run {program}")]
    Start {
        /// Its path.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended otherwise than well.
    #[error("{program} ended with {status}")]
    Failed {
        /// Its path.
        program: &'static str,
        /// How.
        status: ExitStatus,
    },
    /// It did not end, or serve, in time and was killed.
    #[error("{program} was not ready within {seconds} seconds")]
    Stuck {
        /// Its path.
        program: &'static str,
        /// The bound.
        seconds: u64,
    },
}

/// Runs a program to its good end. It writes to the console; what it needs to know is in its arguments.
///
/// # Errors
/// If it cannot be started, ends otherwise than well, or not within the limit.
pub fn run(program: &'static str, arguments: &[&str], limit: Duration) -> Result<(), ProgramError> {
    let start = |source| ProgramError::Start { program, source };
    let _ = kernel::show_life_to_watchdog();
    let mut child = spawn(program, arguments).map_err(start)?;
    let ended = wait(child.id(), limit).map_err(start)?;
    if !ended {
        child.kill().map_err(start)?;
    }
    let status = child.wait().map_err(start)?;
    match (ended, status.success()) {
        (false, _) => Err(ProgramError::Stuck { program, seconds: limit.as_secs() }),
        (true, false) => Err(ProgramError::Failed { program, status }),
        (true, true) => Ok(()),
    }
}

fn spawn(program: &'static str, arguments: &[&str]) -> io::Result<Child> {
    Command::new(Path::new(program))
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        // No udev runs here: libdevmapper makes its device nodes itself.
        .env("DM_DISABLE_UDEV", "1")
        .stdin(Stdio::null())
        .spawn()
}

/// A program that works beside this one. It ends when this goes.
#[derive(Debug)]
pub struct Background {
    program: &'static str,
    child: Child,
}

/// How often it is looked whether a program serves.
const LOOK: Duration = Duration::from_millis(20);

impl Background {
    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &'static str, arguments: &[&str]) -> Result<Self, ProgramError> {
        let child = spawn(program, arguments).map_err(|source| ProgramError::Start { program, source })?;
        Ok(Self { program, child })
    }

    /// Waits until `serves` says so of its process, which then still runs.
    ///
    /// # Errors
    /// If it ends before, or does not serve within the limit.
    pub fn until(mut self, limit: Duration, serves: impl Fn(u32) -> bool) -> Result<Self, ProgramError> {
        let program = self.program;
        let start = |source| ProgramError::Start { program, source };
        let from = Instant::now();
        while !serves(self.child.id()) {
            if wait(self.child.id(), LOOK).map_err(start)? {
                let status = self.child.wait().map_err(start)?;
                return Err(ProgramError::Failed { program, status });
            }
            if from.elapsed() > limit {
                return Err(ProgramError::Stuck { program, seconds: limit.as_secs() });
            }
        }
        Ok(self)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // One that has ended already is what was wanted.
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}

/// Whether the process ended within the limit.
fn wait(id: u32, limit: Duration) -> io::Result<bool> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut waited = [PollFd::new(&process, PollFlags::IN)];
    Ok(poll(&mut waited, Some(&limit))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_told_from_one_that_ends_well() {
        let limit = Duration::from_secs(10);
        assert!(run("/bin/true", &[], limit).is_ok());
        assert!(matches!(run("/bin/false", &[], limit), Err(ProgramError::Failed { .. })));
        assert!(matches!(run("/nowhere", &[], limit), Err(ProgramError::Start { .. })));
    }

    #[test]
    fn a_program_in_the_background_is_waited_for_and_ends_with_its_owner() {
        let limit = Duration::from_secs(10);
        let fast = Background::start("/bin/true", &[]).unwrap().until(limit, |_| false);
        assert!(matches!(fast, Err(ProgramError::Failed { status, .. }) if status.success()));
        let idle = Background::start("/bin/sleep", &["600"]).unwrap().until(Duration::from_millis(50), |_| false);
        assert!(matches!(idle, Err(ProgramError::Stuck { .. })));
        let serves = Background::start("/bin/sleep", &["600"]).unwrap().until(limit, |id| id > 0).unwrap();
        let process = format!("/proc/{}", serves.child.id());
        assert!(Path::new(&process).exists());
        drop(serves);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_the_limit() {
        let ended = run("/bin/sleep", &["600"], Duration::from_millis(50));
        assert!(matches!(ended, Err(ProgramError::Stuck { .. })));
    }
}
