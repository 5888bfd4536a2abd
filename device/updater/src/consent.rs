//! `mbl-updater consent`: somebody at the device answers the question of the running updater. Never decides what follows.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use protocol_types::{
    Answer, Question, Reason, ReleaseVersion, UpdateStatus,
    socket::{AgentToUpdater, UpdaterToAgent},
};

use crate::{
    running_updater::{ReachError, RunningUpdater},
    serve,
};

/// How long the updater may take to act on an answer: one write of its record.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An answer that did not count.
#[derive(Debug, thiserror::Error)]
pub enum ConsentError {
    /// The last report cannot be read.
    #[error("cannot read the last report of the updater")]
    Report(#[source] io::Error),
    /// The updater does not hear this command.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// Nothing is being asked.
    #[error("the device asks nothing")]
    NothingAsked,
    /// The question is about another release.
    #[error("the device asks about release {0}")]
    OtherRelease(ReleaseVersion),
    /// Something else happened first.
    #[error("the question was over before the answer came{}", because(.reason.as_ref()))]
    TooLate {
        /// What the updater says now.
        reason: Option<Reason>,
    },
}

fn because(reason: Option<&Reason>) -> String {
    reason.map(|reason| format!(": {}", reason.text)).unwrap_or_default()
}

/// What the device in `device_dir` asks now.
///
/// # Errors
/// If the last report cannot be read, or no updater runs.
pub fn asked(device_dir: &Path) -> Result<Option<Question>, ConsentError> {
    let status = serve::last_status(device_dir).map_err(ConsentError::Report)?;
    let status = status.ok_or_else(|| ReachError::NotRunning(io::ErrorKind::NotFound.into()))?;
    Ok(status.question)
}

/// Answers what the device in `device_dir` asks; with `release`, only if it asks about that one. Returns once the answer lasts.
///
/// # Errors
/// If nothing, or something else, is asked, or the answer does not reach the updater.
pub fn answer(device_dir: &Path, answer: Answer, release: Option<&ReleaseVersion>) -> Result<Question, ConsentError> {
    // Without a question nobody is disturbed: who speaks here takes the place of an installation from a folder.
    asked(device_dir)?.ok_or(ConsentError::NothingAsked)?;
    let mut updater = RunningUpdater::reach(device_dir)?;
    let until = Instant::now() + ANSWER_LIMIT;
    let UpdateStatus { question, wanted, rollout, .. } =
        next_status(&mut updater, until)?.ok_or(ConsentError::NothingAsked)?;
    let (Some(question), Some(digest)) = (question, wanted) else { return Err(ConsentError::NothingAsked) };
    if release.is_some_and(|release| *release != question.version) {
        return Err(ConsentError::OtherRelease(question.version));
    }
    updater.say(&AgentToUpdater::Answer { digest, answer })?;
    loop {
        let Some(status) = next_status(&mut updater, until)? else { return Ok(question) };
        let is_same = status.wanted == Some(digest) && status.rollout == rollout;
        if is_same && status.question.is_some() {
            continue;
        }
        let counts = is_same && status.is_declined() == (answer == Answer::No);
        return if counts { Ok(question) } else { Err(ConsentError::TooLate { reason: status.reason }) };
    }
}

/// What the updater reports next; none if the device goes down.
fn next_status(updater: &mut RunningUpdater, until: Instant) -> Result<Option<UpdateStatus>, ReachError> {
    loop {
        match updater.hear_until(until)? {
            UpdaterToAgent::Status(status) => return Ok(Some(*status)),
            UpdaterToAgent::Restarting => return Ok(None),
            UpdaterToAgent::Fetch { .. } | UpdaterToAgent::Reset { .. } => {}
        }
    }
}
