//! Starts one of the initrd's programs and waits for it, for a bounded time. Never passes a secret as an argument.

use std::{
    io,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

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
    /// It did not end in time and was killed.
    #[error("{program} did not end within {seconds} seconds")]
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
    let mut child = Command::new(Path::new(program))
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        // No udev runs here: libdevmapper makes its device nodes itself.
        .env("DM_DISABLE_UDEV", "1")
        .stdin(Stdio::null())
        .spawn()
        .map_err(start)?;
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
    fn a_program_that_hangs_is_killed_at_the_limit() {
        let ended = run("/bin/sleep", &["600"], Duration::from_millis(50));
        assert!(matches!(ended, Err(ProgramError::Stuck { .. })));
    }
}
