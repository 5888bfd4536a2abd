//! The session itself: who is at the other end of one connection, and what each fact means for it.

use std::{collections::VecDeque, time::Duration};

use super::{Ended, Fact, Registration, RegistrationUpdate, Settings, Step};
use crate::{
    coap::{
        Connection, Message,
        connection::{InboundId, Output},
    },
    object::Path,
    time::Millis,
};

mod operations;
mod questions;

/// What a request of ours was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The next write of a bootstrap, or its finish.
    Bootstrap,
    /// An operation of the caller.
    Operation { id: u64, path: Path },
    /// An Observe of the caller; its notifications carry the same mark.
    Observe { id: u64, path: Path },
    /// Nobody waits for the answer.
    Unwatched,
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Asked {
    number: u64,
    inbound: InboundId,
    question: Asking,
}

#[derive(Debug)]
enum Asking {
    Bootstrap,
    Register(Registration),
    Update(RegistrationUpdate),
    Other,
}

#[derive(Debug)]
struct Standing {
    registration: Registration,
    location: String,
    expires: Millis,
}

/// One connection of a client to the service, from its first byte to its last.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    connection: Option<Connection<Purpose>>,
    asked: Vec<Asked>,
    last_ask: u64,
    /// What a bootstrap still has to send.
    bootstrap: Option<VecDeque<Message>>,
    standing: Option<Standing>,
    /// When the session ends if nothing happens.
    idle_at: Millis,
    wake: Option<Millis>,
    steps: Vec<Step>,
}

impl Session {
    /// A session whose connection does not stand yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            connection: None,
            asked: Vec::new(),
            last_ask: 0,
            bootstrap: None,
            standing: None,
            idle_at: Millis(u64::MAX),
            wake: None,
            steps: Vec::new(),
        }
    }

    /// The registration of this connection.
    pub fn registration(&self) -> Option<&Registration> {
        self.standing.as_ref().map(|standing| &standing.registration)
    }

    /// Takes one fact; returns what the caller must now do, in order.
    pub fn on(&mut self, now: Millis, fact: Fact) -> Vec<Step> {
        match fact {
            Fact::Opened => self.opened(now),
            Fact::Received(message) => {
                if self.connection.as_ref().is_some_and(Connection::is_open) {
                    self.idle_at = now.plus(self.settings.idle_timeout);
                }
                self.exchange(now, |connection, out| connection.receive(now, message, out));
            }
            Fact::Lost => self.end(now, Ended::ConnectionLost),
            Fact::TimePassed => self.time_passed(now),
            Fact::Decided { ask, decision } => self.decided(now, ask, decision),
            Fact::Request { id, operation } => self.requested(now, id, &operation),
            Fact::Shutdown => self.shut(now, Ended::ConnectionLost),
        }
        self.wish();
        std::mem::take(&mut self.steps)
    }

    fn opened(&mut self, now: Millis) {
        let mut out = Vec::new();
        self.connection = Some(Connection::open(self.settings.limits, self.settings.seed, &mut out));
        self.idle_at = now.plus(self.settings.hello_timeout);
        self.perform(now, out);
    }

    fn exchange(&mut self, now: Millis, act: impl FnOnce(&mut Connection<Purpose>, &mut Vec<Output<Purpose>>)) {
        let mut out = Vec::new();
        if let Some(connection) = &mut self.connection {
            act(connection, &mut out);
        }
        self.perform(now, out);
    }

    fn perform(&mut self, now: Millis, out: Vec<Output<Purpose>>) {
        for output in out {
            match output {
                Output::Send(message) => self.steps.push(Step::Send(message)),
                Output::Ready => self.idle_at = now.plus(self.settings.idle_timeout),
                Output::Request { id, request } => self.inbound(now, id, request),
                Output::Response { tag, response } => self.responded(now, tag, &response),
                Output::Notification { tag, response } => self.notified(now, tag, &response),
                Output::Failed { tag, error } => self.failed(now, tag, error.into()),
                Output::Ended { tag, error } => self.observation_ended(now, tag, error.into()),
                Output::Close(_) => {
                    self.end(now, Ended::ConnectionLost);
                    self.steps.push(Step::Close);
                }
            }
        }
    }

    /// The connection is gone: everything that waits for it hears so.
    fn end(&mut self, now: Millis, how: Ended) {
        self.leave(now, how, Connection::lost);
    }

    /// Ends the session from this side, kindly.
    fn shut(&mut self, now: Millis, how: Ended) {
        if self.leave(now, how, Connection::release) {
            self.steps.push(Step::Close);
        }
    }

    /// False if there is no connection to leave.
    fn leave(
        &mut self,
        now: Millis,
        how: Ended,
        goodbye: impl FnOnce(&mut Connection<Purpose>, &mut Vec<Output<Purpose>>),
    ) -> bool {
        let Some(mut connection) = self.connection.take() else { return false };
        let mut out = Vec::new();
        goodbye(&mut connection, &mut out);
        // With the connection every observation ends; the end of the registration says so once.
        out.retain(|output| !matches!(output, Output::Ended { .. }));
        self.perform(now, out);
        self.asked.clear();
        if self.standing.take().is_some() {
            self.steps.push(Step::Deregistered(how));
        }
        true
    }

    fn time_passed(&mut self, now: Millis) {
        self.exchange(now, |connection, out| connection.time_passed(now, out));
        if self.standing.as_ref().is_some_and(|standing| standing.expires <= now) {
            self.shut(now, Ended::Expired);
        } else if self.standing.is_none() && self.idle_at <= now {
            let greeted = self.connection.as_ref().is_some_and(Connection::is_open);
            if greeted && (self.connection.as_ref().is_some_and(Connection::is_busy) || !self.asked.is_empty()) {
                self.idle_at = now.plus(self.settings.idle_timeout);
            } else {
                self.shut(now, Ended::ConnectionLost);
            }
        }
    }

    fn wish(&mut self) {
        let own = self.standing.as_ref().map_or(self.idle_at, |standing| standing.expires);
        let wake = self.connection.as_ref().map(|connection| connection.next_deadline().map_or(own, |at| at.min(own)));
        if let Some(at) = wake.filter(|_| wake != self.wake) {
            self.steps.push(Step::WakeAt(at));
        }
        self.wake = wake;
    }

    fn expiry(&self, now: Millis, lifetime: u32) -> Millis {
        now.plus(Duration::from_secs(u64::from(lifetime)).saturating_add(self.settings.grace))
    }
}
