//! Reaching a server, losing it, trying again, and leaving for good.

use std::time::Duration;

use super::{Client, Purpose, State};
use crate::{
    client::{
        Objects, Step, registration,
        retry::{Failure, Goal},
    },
    coap::{
        Connection,
        connection::{CloseReason, Output},
    },
    time::Millis,
};

impl Client {
    pub(super) fn dial(&mut self, now: Millis, goal: Goal) {
        let goal = if self.has_account() { goal } else { Goal::Bootstrap };
        self.steps.push(Step::Dial(self.target(goal)));
        self.state = State::Dialing { goal, deadline: now.plus(self.settings.dial_timeout) };
    }

    pub(super) fn connected(&mut self, now: Millis, objects: &mut dyn Objects) {
        let State::Dialing { goal, deadline } = self.state else { return };
        let mut out = Vec::new();
        self.connection = Some(Connection::open(self.settings.limits, self.random.next(), &mut out));
        self.state = State::Greeting { goal, deadline };
        self.perform(now, out, objects);
    }

    /// Lets the connection, if one stands, do something, and performs what comes of it.
    pub(super) fn exchange(
        &mut self,
        now: Millis,
        objects: &mut dyn Objects,
        act: impl FnOnce(&mut Connection<Purpose>, &mut Vec<Output<Purpose>>),
    ) {
        let mut out = Vec::new();
        if let Some(connection) = &mut self.connection {
            act(connection, &mut out);
        }
        self.perform(now, out, objects);
    }

    pub(super) fn perform(&mut self, now: Millis, out: Vec<Output<Purpose>>, objects: &mut dyn Objects) {
        for output in out {
            match output {
                Output::Send(message) => self.steps.push(Step::Send(message)),
                Output::Ready => self.ready(now, objects),
                Output::Request { id, request } => self.requested(now, id, &request, objects),
                Output::Response { tag, response } => self.responded(now, tag, response, objects),
                Output::Failed { tag, error } => self.request_failed(now, tag, error),
                Output::Close(reason) => {
                    let hold_off = match reason {
                        CloseReason::Released(hold_off) => hold_off,
                        CloseReason::Aborted | CloseReason::Broken => None,
                    };
                    // What failed with the connection may have hung up already; the wish of the server still counts.
                    self.hang_up();
                    self.lost(now, hold_off.map(|seconds| Duration::from_secs(u64::from(seconds))));
                }
                // The client observes nothing.
                Output::Notification { .. } | Output::Ended { .. } => {}
            }
        }
    }

    /// Closes the connection, if one stands, and answers the caller's requests that were under way on it.
    pub(super) fn hang_up(&mut self) {
        if self.forget_connection() {
            self.steps.push(Step::Close);
        }
    }

    /// True if a connection stood.
    pub(super) fn forget_connection(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else { return false };
        let mut out = Vec::new();
        connection.lost(&mut out);
        for output in out {
            if let Output::Failed { tag: Purpose::Caller(id), error } = output {
                self.steps.push(Step::Answered { id, result: Err(error) });
            }
        }
        self.observers.clear();
        self.attributes.clear();
        true
    }

    /// The connection ended. `hold_off` is how long the server wants us away at least.
    pub(super) fn lost(&mut self, now: Millis, hold_off: Option<Duration>) {
        self.forget_connection();
        match &self.state {
            State::New | State::Waiting { .. } | State::Stopped => {}
            State::Leaving { away } => {
                let away = *away;
                self.left(now, away);
            }
            State::Dialing { goal, .. } | State::Greeting { goal, .. } => self.fail(now, *goal, Failure::Unreachable),
            State::AskingForBootstrap | State::Bootstrapping { .. } => {
                self.fail(now, Goal::Bootstrap, Failure::Unreachable)
            }
            State::Enrolling { .. } => self.enrol_failed(now),
            State::Registering { .. } => self.fail(now, Goal::Management, Failure::Unreachable),
            State::Registered(_) => self.fail(now, Goal::Management, Failure::Lost),
        }
        if let (State::Waiting { until, sent_away, .. }, Some(hold_off)) = (&mut self.state, hold_off) {
            *until = (*until).max(now.plus(hold_off.min(self.settings.longest_absence)));
            *sent_away = true;
        }
    }

    pub(super) fn dial_anew(&mut self, now: Millis) {
        let goal = match &self.state {
            State::New | State::Stopped | State::Waiting { sent_away: true, .. } => return,
            State::Leaving { .. } => return self.lost(now, None),
            State::Waiting { goal, .. } | State::Dialing { goal, .. } | State::Greeting { goal, .. } => *goal,
            State::AskingForBootstrap | State::Bootstrapping { .. } | State::Enrolling { .. } => Goal::Bootstrap,
            State::Registering { .. } => Goal::Management,
            State::Registered(_) => {
                self.steps.push(Step::Unregistered);
                Goal::Management
            }
        };
        self.forget_connection();
        self.retry.succeeded();
        self.dial(now, goal);
    }

    /// A try or a registration ended: hang up, wait, and try again.
    pub(super) fn fail(&mut self, now: Millis, goal: Goal, why: Failure) {
        self.hang_up();
        if let State::Registered(registered) = &self.state {
            if now.since(registered.since) >= self.settings.last_retry {
                self.retry.succeeded();
            }
            self.steps.push(Step::Unregistered);
        }
        let has_account = self.has_account();
        let (wait, goal) = self.retry.failed((goal, why), has_account, &self.settings, &mut self.random);
        self.state = State::Waiting { until: now.plus(wait), goal, sent_away: false };
    }

    pub(super) fn enrol_failed(&mut self, now: Millis) {
        self.fail(now, Goal::Bootstrap, Failure::Refused);
        if let State::Waiting { goal, .. } = &mut self.state {
            // The account is there but not its certificate, so the management server would only refuse us.
            *goal = Goal::Bootstrap;
        }
    }

    pub(super) fn bootstrap_again(&mut self, now: Millis) {
        match self.state {
            State::New | State::Stopped | State::Leaving { .. } => return,
            State::Registered(_) => self.steps.push(Step::Unregistered),
            State::Dialing { .. } => self.steps.push(Step::Close),
            _ => {}
        }
        self.hang_up();
        self.dial(now, Goal::Bootstrap);
    }

    pub(super) fn stop(&mut self, now: Millis, objects: &mut dyn Objects) {
        match self.state {
            State::Registered(_) => self.leave(now, None, objects),
            State::Leaving { .. } => self.state = State::Leaving { away: None },
            State::Stopped => {}
            State::Dialing { .. } => {
                self.steps.push(Step::Close);
                self.left(now, None);
            }
            _ => self.left(now, None),
        }
    }

    /// Deregisters; then stops, or stays away for so long.
    pub(super) fn leave(&mut self, now: Millis, away: Option<Duration>, objects: &mut dyn Objects) {
        let State::Registered(registered) = &self.state else { return };
        let request = registration::deregister(&registered.location);
        self.steps.push(Step::Unregistered);
        self.observers.clear();
        self.state = State::Leaving { away };
        self.request(now, request, Purpose::Deregister, objects);
    }

    pub(super) fn left(&mut self, now: Millis, away: Option<Duration>) {
        self.hang_up();
        self.state = match away {
            Some(away) => {
                let until = now.plus(away.min(self.settings.longest_absence));
                State::Waiting { until, goal: Goal::Management, sent_away: true }
            }
            None => {
                self.steps.push(Step::Stopped);
                State::Stopped
            }
        };
    }
}
