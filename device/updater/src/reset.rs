//! `mbl-updater factory-reset`: a person at the device asks the running updater for a factory reset. Never removes anything itself.

use std::{io, os::unix::net::UnixStream, path::Path};

use protocol_types::socket::{AgentToUpdater, Role, UpdaterToAgent};

use crate::socket::{Conversation, LinkError};

/// A factory reset that was not begun.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// No updater runs on this device, or this user may not speak to it.
    #[error("cannot reach the updater of this device")]
    NotRunning(#[source] io::Error),
    /// The connection to the updater failed.
    #[error("the updater cannot be spoken to")]
    Link(#[from] LinkError),
    /// The updater ended, without saying that it would.
    #[error("the updater went away before the device restarted")]
    Gone,
}

/// Asks for a factory reset of the device in `device_dir`. Returns once the wish lasts and the device goes down, which may take until
/// the end of a trial.
///
/// # Errors
/// If the updater cannot be asked.
pub fn ask(device_dir: &Path) -> Result<(), ResetError> {
    let stream = UnixStream::connect(device_dir.join("run/updater.sock")).map_err(ResetError::NotRunning)?;
    let mut updater = Conversation::open(stream, Role::Installer)?;
    if updater.role() != Role::Updater {
        return Err(LinkError::WrongPeer(updater.role()).into());
    }
    updater.say(&AgentToUpdater::FactoryReset)?;
    loop {
        match updater.hear()?.ok_or(ResetError::Gone)? {
            UpdaterToAgent::Restarting => return Ok(()),
            UpdaterToAgent::Status(_) | UpdaterToAgent::Fetch { .. } => {}
        }
    }
}
