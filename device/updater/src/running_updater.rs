//! The running updater, as the commands of a person at the device speak to it: as an installer, which only root may be. Never knows what
//! a command is for.

use std::{io, os::unix::net::UnixStream, path::Path, time::Instant};

use protocol_types::socket::{AgentToUpdater, Role, UpdaterToAgent};

use crate::socket::{Conversation, LinkError, SOCKET};

/// An updater that does not hear a command, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// No updater runs on this device, or this user may not speak to it.
    #[error("cannot reach the updater of this device")]
    NotRunning(#[source] io::Error),
    /// The connection to the updater failed.
    #[error("the updater cannot be spoken to")]
    Link(#[from] LinkError),
    /// The updater ended, without saying that it would.
    #[error("the updater went away before it had answered")]
    Gone,
}

/// A conversation with it.
#[derive(Debug)]
pub(crate) struct RunningUpdater(Conversation);

impl RunningUpdater {
    /// Reaches the updater of the device in `device_dir`.
    pub(crate) fn reach(device_dir: &Path) -> Result<Self, ReachError> {
        let stream = UnixStream::connect(device_dir.join(SOCKET)).map_err(ReachError::NotRunning)?;
        let updater = Conversation::open(stream, Role::Installer)?;
        if updater.role() != Role::Updater {
            return Err(LinkError::WrongPeer(updater.role()).into());
        }
        Ok(Self(updater))
    }

    /// Says something to it.
    pub(crate) fn say(&mut self, message: &AgentToUpdater) -> Result<(), ReachError> {
        Ok(self.0.say(message)?)
    }

    /// What it says next.
    pub(crate) fn hear(&mut self) -> Result<UpdaterToAgent, ReachError> {
        self.0.hear()?.ok_or(ReachError::Gone)
    }

    /// What it says next, unless it is silent until then.
    pub(crate) fn hear_until(&mut self, until: Instant) -> Result<UpdaterToAgent, ReachError> {
        self.0.hear_until(until)?;
        self.hear()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener, thread, time::Duration};

    use super::*;

    #[test]
    fn nobody_somebody_else_one_who_is_silent_and_one_who_hangs_up_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        assert!(matches!(RunningUpdater::reach(folder.path()), Err(ReachError::NotRunning(_))));
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let peers = thread::spawn(move || {
            drop(Conversation::open(listener.accept().unwrap().0, Role::Apps).unwrap());
            let mut asker = Conversation::open(listener.accept().unwrap().0, Role::Updater).unwrap();
            // Says nothing until it was told something, and hangs up then.
            assert_eq!(asker.hear::<AgentToUpdater>().unwrap(), Some(AgentToUpdater::Rest));
        });
        let other = RunningUpdater::reach(folder.path());
        assert!(matches!(other, Err(ReachError::Link(LinkError::WrongPeer(Role::Apps)))));
        let mut updater = RunningUpdater::reach(folder.path()).unwrap();
        let silent = updater.hear_until(Instant::now() + Duration::from_millis(100));
        assert!(matches!(silent, Err(ReachError::Link(LinkError::Silent))));
        updater.say(&AgentToUpdater::Rest).unwrap();
        let gone = updater.hear_until(Instant::now() + Duration::from_secs(20));
        assert!(matches!(gone, Err(ReachError::Gone)));
        peers.join().unwrap();
    }
}
