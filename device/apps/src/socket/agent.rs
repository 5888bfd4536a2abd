//! Asks the agent for pieces of artifacts, one at a time. The agent relays; whatever it brings is checked by others.

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
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// The connection to the agent, whichever one there is at the moment.
#[derive(Debug, Default)]
pub struct AgentLink {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    outbox: Option<Outbox>,
    last_id: u64,
    asked: Option<u64>,
    answer: Option<Result<Vec<u8>, FetchError>>,
    interrupted: bool,
}

impl State {
    fn connection(&self) -> Option<u64> {
        self.outbox.as_ref().map(Outbox::connection)
    }
}

impl AgentLink {
    /// A new connection replaces the one before.
    pub fn connected(&self, outbox: Outbox) {
        let mut state = self.lock();
        if let Some(before) = state.outbox.replace(outbox) {
            before.close();
        }
        self.changed.notify_all();
    }

    /// The connection of this number is gone; a newer one may have replaced it before.
    pub fn disconnected(&self, connection: u64) {
        let mut state = self.lock();
        if state.connection() == Some(connection) {
            state.outbox = None;
            self.changed.notify_all();
        }
    }

    /// The agent answered.
    pub fn answered(&self, fetched: Fetched) {
        let mut state = self.lock();
        if state.asked == Some(fetched.id) {
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
        if let Some(outbox) = &self.lock().outbox {
            outbox.send(message);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for AgentLink {
    fn fetch(&self, digest: Digest, offset: u64, length: u32) -> Result<Vec<u8>, FetchError> {
        let mut state = self.lock();
        let outbox = state.outbox.clone().ok_or(FetchError::Unreachable)?;
        state.last_id += 1;
        let (id, connection) = (state.last_id, state.connection());
        (state.asked, state.answer) = (Some(id), None);
        if !outbox.send(&AppsToAgent::Fetch { id, what: Fetch::Artifact { digest, offset, length } }) {
            return Err(FetchError::Unreachable);
        }
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            if let Some(answer) = state.answer.take() {
                return answer;
            }
            let left = until.saturating_duration_since(Instant::now());
            // An answer on another connection than the question's will not come.
            if state.connection() != connection || state.interrupted || left.is_zero() {
                state.asked = None;
                return Err(FetchError::Unreachable);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn interrupted(&self) -> bool {
        self.lock().interrupted
    }
}
