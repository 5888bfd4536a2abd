//! `mbl-updater install`: brings an exported release to the running updater, by the same verification as over the air. Never
//! writes anything itself.

use std::{os::unix::net::UnixStream, path::Path, thread};

use protocol_types::{
    Phase, Reason, UpdateStatus,
    socket::{AgentToApps, AgentToUpdater, AppsToAgent, Fetched, Role, UpdaterToAgent},
};

use crate::{
    folder::{FolderError, FolderWish, ReleaseFolder},
    running_updater::{ReachError, RunningUpdater},
    socket::{Conversation, LinkError},
};

/// How an installation ended, as far as this command sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The release runs and proved itself.
    Confirmed,
    /// The device restarts now; the trial after it decides.
    Restarting,
}

/// An installation that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The folder is no exported release.
    #[error("cannot use the folder")]
    Folder(#[from] FolderError),
    /// The updater does not hear this command.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The updater does not want the release, or it did not prove itself.
    #[error("the release was {}", if *.phase == Phase::RolledBack { "rolled back" } else { "refused" })]
    Refused {
        /// How it ended.
        phase: Phase,
        /// Why.
        source: Reason,
    },
}

/// Brings the release in `folder` to the updater of the device in `device_dir`; `tell` hears of every change.
///
/// # Errors
/// If the release is not installed.
pub fn install(
    device_dir: &Path,
    folder: &Path,
    mut tell: impl FnMut(&UpdateStatus),
) -> Result<Installed, InstallError> {
    let (folder, FolderWish { release, digest }) = ReleaseFolder::open(folder)?;
    let mut updater = RunningUpdater::reach(device_dir)?;
    serve_applications(device_dir, &folder);
    updater.say(&AgentToUpdater::Desire { release, digest, rollout: None, consent: None })?;
    // The first status was on its way before the wish.
    let mut seen = 0;
    loop {
        match updater.hear()? {
            UpdaterToAgent::Fetch { id, what } => {
                updater.say(&AgentToUpdater::Fetched(Fetched { id, result: folder.fetch(&what) }))?;
            }
            UpdaterToAgent::Restarting => return Ok(Installed::Restarting),
            UpdaterToAgent::Reset { .. } => {}
            UpdaterToAgent::Status(status) => {
                seen += 1;
                if seen == 1 || status.wanted != Some(digest) || status.rollout.is_some() {
                    continue;
                }
                tell(&status);
                match (status.phase, status.reason) {
                    (Phase::Succeeded, _) => return Ok(Installed::Confirmed),
                    (phase @ (Phase::Failed | Phase::RolledBack), Some(source)) => {
                        return Err(InstallError::Refused { phase, source });
                    }
                    (
                        Phase::Idle
                        | Phase::Downloading
                        | Phase::Verifying
                        | Phase::Installing
                        | Phase::Trial
                        | Phase::Failed
                        | Phase::RolledBack,
                        _,
                    ) => {}
                }
            }
        }
    }
}

/// Brings the applications' blobs to `mbl-apps`, as long as this command runs. Without it, the agent is asked for them.
fn serve_applications(device_dir: &Path, folder: &ReleaseFolder) {
    let (path, folder) = (device_dir.join("run/apps.sock"), folder.clone());
    let serve = move || -> Result<(), LinkError> {
        let stream = UnixStream::connect(&path).map_err(|source| LinkError::Io { doing: "dial", source })?;
        let mut apps = Conversation::open(stream, Role::Installer)?;
        while let Some(message) = apps.hear()? {
            match message {
                AppsToAgent::Fetch { id, what } => {
                    apps.say(&AgentToApps::Fetched(Fetched { id, result: folder.fetch(&what) }))?;
                }
                // Nobody asks for a log on this connection.
                AppsToAgent::Status(_) | AppsToAgent::Log { .. } => {}
            }
        }
        Ok(())
    };
    // Ends with this process at the latest; without it a release with new applications waits for the agent to bring them.
    drop(thread::spawn(move || {
        if let Err(e) = serve() {
            tracing::warn!(cause = %anyhow::Error::from(e), "applications are not brought from the folder");
        }
    }));
}
