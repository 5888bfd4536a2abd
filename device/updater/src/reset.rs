//! `mbl-updater factory-reset`: a person at the device asks the running updater for a factory reset. Never removes anything itself.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use protocol_types::{
    Phase, Reason, UpdateStatus,
    socket::{AgentToUpdater, UpdaterToAgent},
};

use crate::{
    running_updater::{ReachError, RunningUpdater},
    socket::LinkError,
};

/// How long the updater may take to come to it. A trial comes to its verdict first, for which a release may give it days.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A factory reset that was not begun.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The updater does not hear this command.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// Something else came first.
    #[error("the device restarts for something else, and the updater had not taken the wish")]
    Restarting,
    /// The wish cannot be left where the next start looks for it.
    #[error("the next start does not make a new state")]
    Refused(#[source] Reason),
    /// A release is on trial, or the updater is stuck.
    #[error(
        "the updater has not begun within {} minutes; it does when nothing is on trial any more, unless it ends before",
        .0.as_secs() / 60
    )]
    NotYet(Duration),
}

/// Asks for a factory reset of the device in `device_dir`. Returns once the wish lasts and the device goes down, for which the end of a
/// trial is waited for; `tell` hears how that stands.
///
/// # Errors
/// If the updater cannot be asked, refuses, or did not come to it in time.
pub fn ask(device_dir: &Path, tell: impl FnMut(&UpdateStatus)) -> Result<(), ResetError> {
    ask_within(LIMIT, device_dir, tell)
}

fn ask_within(limit: Duration, device_dir: &Path, mut tell: impl FnMut(&UpdateStatus)) -> Result<(), ResetError> {
    let mut updater = RunningUpdater::reach(device_dir)?;
    updater.say(&AgentToUpdater::FactoryReset)?;
    let until = Instant::now() + limit;
    loop {
        let heard = match updater.hear_until(until) {
            Err(ReachError::Link(LinkError::Silent)) => return Err(ResetError::NotYet(limit)),
            heard => heard?,
        };
        match heard {
            UpdaterToAgent::Reset { refused: None } => return Ok(()),
            UpdaterToAgent::Reset { refused: Some(reason) } => return Err(ResetError::Refused(reason)),
            UpdaterToAgent::Restarting => return Err(ResetError::Restarting),
            UpdaterToAgent::Status(status) if status.phase == Phase::Trial => tell(&status),
            UpdaterToAgent::Status(_) | UpdaterToAgent::Fetch { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener, thread};

    use protocol_types::{ReasonCode, socket::Role};

    use super::*;
    use crate::socket::{Conversation, SOCKET};

    /// What comes of asking an updater that answers so, or not at all.
    fn ask_one_that_says(answer: Option<UpdaterToAgent>) -> Result<(), ResetError> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let limit = if answer.is_some() { LIMIT } else { Duration::from_millis(200) };
        let updater = thread::spawn(move || {
            let mut asker = Conversation::open(listener.accept().unwrap().0, Role::Updater).unwrap();
            assert_eq!(asker.hear::<AgentToUpdater>().unwrap(), Some(AgentToUpdater::FactoryReset));
            answer.iter().for_each(|answer| asker.say(answer).unwrap());
            // Until it hangs up.
            while let Ok(Some(_)) = asker.hear::<AgentToUpdater>() {}
        });
        let asked = ask_within(limit, folder.path(), |_| {});
        updater.join().unwrap();
        asked
    }

    #[test]
    fn whoever_asks_believes_in_a_new_state_only_if_the_updater_took_the_wish() {
        assert!(ask_one_that_says(Some(UpdaterToAgent::Reset { refused: None })).is_ok());
        let refused = Some(Reason::new(ReasonCode::StorageFailed, "the disk refuses"));
        let refused = ask_one_that_says(Some(UpdaterToAgent::Reset { refused }));
        assert!(matches!(refused, Err(ResetError::Refused(reason)) if reason.code == ReasonCode::StorageFailed));
        let restarting = ask_one_that_says(Some(UpdaterToAgent::Restarting));
        assert!(matches!(restarting, Err(ResetError::Restarting)));
    }

    #[test]
    fn nobody_waits_for_ever() {
        assert!(matches!(ask_one_that_says(None), Err(ResetError::NotYet(_))));
    }
}
