//! Asks the system of a real board to restart it. Never restarts anything itself, so that what runs is stopped in order.

use std::{
    io,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

const SYSTEMCTL: &str = "usr/bin/systemctl";

/// A restart that was not asked for.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The program cannot be started.
    #[error("cannot start /{SYSTEMCTL} to restart the device")]
    Start(#[source] io::Error),
    /// The system's manager did not take it.
    #[error("/{SYSTEMCTL} reboot ended with {0}")]
    Refused(ExitStatus),
}

/// Asks the manager of the system whose root is `root` for a restart, without waiting for it. Whoever called must then end with a status after which it is not started
/// again (`docs/formats/board.md`): the restart is on its way, and a second updater would count a second start.
///
/// # Errors
/// If the manager did not take it.
pub fn ask_system(root: &Path) -> Result<(), RestartError> {
    let mut command = Command::new(root.join(SYSTEMCTL));
    let asked = command.args(["--no-block", "reboot"]).stdin(Stdio::null()).status();
    match asked.map_err(RestartError::Start)? {
        status if status.success() => Ok(()),
        status => Err(RestartError::Refused(status)),
    }
}
