//! Asks `mbl-updater configure-system` to bring into force what only an operating system can: this process has no rights of its own. One
//! connection for each question. Never decides which settings.

use std::{path::PathBuf, time::Duration};

use protocol_types::{
    Digest, Reason, ReasonCode,
    socket::{AgentToSystem, Role, SystemToAgent},
};
use tokio::time::{sleep, timeout};

use crate::{
    cause::Chain,
    socket::{LinkError, connect},
};

/// The longest wait for an answer: eight interfaces that do not come up take half a minute each.
const LIMIT: Duration = Duration::from_secs(300);

/// A process that could not be started in time, or was ended, may do better the next time: what is asked for may be asked for twice.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(5);

/// The way to whoever brings settings into force.
#[derive(Clone, Debug)]
pub struct SystemLink {
    path: PathBuf,
}

impl SystemLink {
    /// Whoever listens at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Asks, and waits until what is asked for was done. A digest of what is there if that is not what was brought into force.
    ///
    /// # Errors
    /// If it was refused, or nobody answered.
    pub(super) async fn ask(&self, question: &AgentToSystem) -> Result<Option<Digest>, Reason> {
        let answer = timeout(LIMIT, self.insist(question)).await;
        let failed =
            |why: String| Reason::new(ReasonCode::Internal, format!("the operating system took no settings: {why}"));
        match answer {
            Ok(Ok(SystemToAgent::InForce)) => Ok(None),
            Ok(Ok(SystemToAgent::Drifted { seen })) => Ok(Some(seen)),
            Ok(Ok(SystemToAgent::Refused(reason))) => Err(reason),
            Ok(Err(error)) => Err(failed(Chain(&error).to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
        }
    }

    async fn insist(&self, question: &AgentToSystem) -> Result<SystemToAgent, LinkError> {
        let mut answer = self.converse(question).await;
        for _ in 1..TRIES {
            let Err(error) = &answer else { break };
            tracing::warn!(error = %Chain(error), "the operating system did not answer, and is asked again");
            sleep(PAUSE).await;
            answer = self.converse(question).await;
        }
        answer
    }

    async fn converse(&self, question: &AgentToSystem) -> Result<SystemToAgent, LinkError> {
        let (mut hearing, mut speaking) = connect(&self.path, Role::System).await?;
        speaking.say(question).await?;
        hearing.hear().await
    }
}
