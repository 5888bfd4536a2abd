//! One question of the agent about the settings of the operating system, and the answer. Never goes on after it.

use std::{os::unix::net::UnixStream, time::Duration};

use protocol_types::{
    Reason, ReasonCode,
    socket::{AgentToSystem, Role, SystemToAgent},
};
use rustix::net::sockopt::socket_peercred;
use tracing::error;

use super::{Place, SettingsError, chain, given};
use crate::socket::{Conversation, LinkError};

/// How long the agent may take to ask.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

/// Answers the question that comes over `line`, if the agent asks, which runs as `agent_uid`.
///
/// # Errors
/// If nobody asks, or somebody else does.
pub fn answer(place: &Place, line: UnixStream, agent_uid: u32) -> Result<(), LinkError> {
    let io_error = |doing| move |source| LinkError::Io { doing, source };
    let uid = socket_peercred(&line).map_err(|e| io_error("question")(e.into()))?.uid.as_raw();
    let same_line = line.try_clone().map_err(io_error("share"))?;
    let mut conversation = Conversation::open(line, Role::System)?;
    same_line.set_read_timeout(Some(QUESTION_LIMIT)).map_err(io_error("set up"))?;
    let role = conversation.role();
    if role != Role::Agent || uid != agent_uid {
        return Err(LinkError::NotAllowed { uid, role });
    }
    let Some(question) = conversation.hear()? else { return Err(LinkError::Silent) };
    conversation.say(&perform(place, &question))
}

fn perform(place: &Place, question: &AgentToSystem) -> SystemToAgent {
    let done = match question {
        AgentToSystem::Try { settings, contact_limit_s } => {
            given::bring_on_trial(place, settings, *contact_limit_s).map(|()| None)
        }
        AgentToSystem::Keep(settings) => given::keep(place, settings).map(|()| None),
        AgentToSystem::Look => given::drift(place),
    };
    match done {
        Ok(None) => SystemToAgent::InForce,
        Ok(Some(seen)) => SystemToAgent::Drifted { seen },
        Err(e) => {
            error!(cause = %chain(&e), "the settings of the service are not in force");
            SystemToAgent::Refused(Reason::new(code(&e), chain(&e)))
        }
    }
}

const fn code(error: &SettingsError) -> ReasonCode {
    match error {
        SettingsError::Refused(_) | SettingsError::NoNetworkManager => ReasonCode::InvalidConfiguration,
        SettingsError::Checkpoint(_) => ReasonCode::Internal,
        SettingsError::File { .. } => ReasonCode::StorageFailed,
    }
}
