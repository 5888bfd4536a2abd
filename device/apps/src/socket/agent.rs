//! Asks for pieces of artifacts, one at a time: an installer that brings a folder, if there is one, then the agent. Both only relay;
//! whatever they bring is checked by others.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use protocol_types::{
    Digest,
    socket::{AppsToAgent, Fetch, FetchError, Fetched},
};

use super::Outbox;
use crate::prepare::Source;

/// How long the agent may take for one piece; it has timeouts of its own, shorter than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(360);

/// Who brings artifacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bringer {
    /// The agent, from the service.
    Agent,
    /// `mbl-updater install`, from a folder.
    Installer,
}

/// The connections to those who bring artifacts, whichever there are at the moment.
#[derive(Debug, Default)]
pub struct AgentLink {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    agent: Option<Outbox>,
    installer: Option<Outbox>,
    last_id: u64,
    asked: Option<(u64, Bringer)>,
    answer: Option<Result<Vec<u8>, FetchError>>,
    interrupted: bool,
}

impl State {
    fn of(&mut self, bringer: Bringer) -> &mut Option<Outbox> {
        match bringer {
            Bringer::Agent => &mut self.agent,
            Bringer::Installer => &mut self.installer,
        }
    }
}

impl AgentLink {
    /// A new connection replaces the one before.
    pub fn connected(&self, bringer: Bringer, outbox: Outbox) {
        let mut state = self.lock();
        if let Some(before) = state.of(bringer).replace(outbox) {
            before.close();
        }
        self.changed.notify_all();
    }

    /// The connection of this number is gone; a newer one may have replaced it before.
    pub fn disconnected(&self, bringer: Bringer, connection: u64) {
        let mut state = self.lock();
        state.of(bringer).take_if(|outbox| outbox.connection() == connection);
        self.changed.notify_all();
    }

    /// Somebody answered; what another one was asked is not theirs to answer.
    pub fn answered(&self, bringer: Bringer, fetched: Fetched) {
        let mut state = self.lock();
        if state.asked == Some((fetched.id, bringer)) {
            state.asked = None;
            state.answer = Some(fetched.result);
            self.changed.notify_all();
        }
    }

    /// Ends the wait for an answer and every one to come, until the link is told otherwise.
    pub fn interrupt(&self, interrupted: bool) {
        self.lock().interrupted = interrupted;
        self.changed.notify_all();
    }

    /// Sends a message to the agent, if one is connected.
    pub fn send(&self, message: &AppsToAgent) {
        if let Some(outbox) = &self.lock().agent {
            outbox.send(message);
        }
    }

    /// Asks one of them and waits for the answer.
    fn ask(&self, bringer: Bringer, what: Fetch) -> Result<Vec<u8>, FetchError> {
        let mut state = self.lock();
        let outbox = state.of(bringer).clone().ok_or(FetchError::Unreachable)?;
        state.last_id += 1;
        let id = state.last_id;
        (state.asked, state.answer) = (Some((id, bringer)), None);
        if !outbox.send(&AppsToAgent::Fetch { id, what }) {
            return Err(FetchError::Unreachable);
        }
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            if let Some(answer) = state.answer.take() {
                return answer;
            }
            let left = until.saturating_duration_since(Instant::now());
            // An answer on another connection than the question's will not come.
            let same = state.of(bringer).as_ref().is_some_and(|now| now.connection() == outbox.connection());
            if !same || state.interrupted || left.is_zero() {
                state.asked = None;
                return Err(FetchError::Unreachable);
            }
            state = match self.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for AgentLink {
    fn fetch(&self, digest: Digest, offset: u64, length: u32) -> Result<Vec<u8>, FetchError> {
        let what = || Fetch::Artifact { digest, offset, length };
        match self.ask(Bringer::Installer, what()) {
            // Not in the folder, or there is no installer: the way it usually comes.
            Err(FetchError::NotFound | FetchError::Unreachable) if !self.interrupted() => {
                self.ask(Bringer::Agent, what())
            }
            answer => answer,
        }
    }

    fn interrupted(&self) -> bool {
        self.lock().interrupted
    }
}
