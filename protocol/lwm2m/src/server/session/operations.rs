//! What the caller wants of the client, and what comes back.

use super::{Purpose, Session};
use crate::{
    coap::{ExchangeError, Message},
    server::{Answer, Content, Ended, Operation, RequestError, Step, operation},
    time::Millis,
};

impl Session {
    pub(super) fn requested(&mut self, now: Millis, id: u64, operation: &Operation) {
        if self.standing.is_none() {
            return self.steps.push(Step::Answered { id, result: Err(RequestError::NotRegistered) });
        }
        let request = match operation::request(operation) {
            Ok(request) => request,
            Err(error) => return self.steps.push(Step::Answered { id, result: Err(error) }),
        };
        let path = operation::path(operation);
        match operation {
            Operation::CancelObserve { .. } => {
                if !self.cancel(
                    now,
                    |tag| matches!(tag, Purpose::Observe { path: own, .. } if *own == path),
                    Purpose::Operation { id, path },
                ) {
                    self.steps.push(Step::Answered { id, result: Err(RequestError::NotObserved) });
                }
            }
            Operation::Observe { .. } => {
                self.exchange(now, |connection, out| {
                    connection.request(now, request, Purpose::Observe { id, path }, out)
                });
            }
            _ => self.exchange(now, |connection, out| {
                connection.request(now, request, Purpose::Operation { id, path }, out)
            }),
        }
    }

    pub(super) fn cancel(&mut self, now: Millis, is_it: impl Fn(&Purpose) -> bool, tag: Purpose) -> bool {
        let mut found = false;
        self.exchange(now, |connection, out| found = connection.cancel(now, is_it, tag, out));
        found
    }

    pub(super) fn responded(&mut self, now: Millis, purpose: Purpose, response: &Message) {
        match purpose {
            Purpose::Operation { id, path } | Purpose::Observe { id, path } => {
                self.steps.push(Step::Answered { id, result: operation::answer(&path, response) });
            }
            Purpose::Bootstrap if response.code.is_success() => self.next_bootstrap(now),
            Purpose::Bootstrap => {
                let error = RequestError::Refused { code: response.code, diagnostic: response.diagnostic() };
                self.failed(now, purpose, error);
            }
            Purpose::Unwatched => {}
        }
    }

    pub(super) fn failed(&mut self, now: Millis, purpose: Purpose, error: RequestError) {
        match purpose {
            Purpose::Operation { id, .. } | Purpose::Observe { id, .. } => {
                self.steps.push(Step::Answered { id, result: Err(error) });
            }
            Purpose::Bootstrap => {
                self.bootstrap = None;
                self.steps.push(Step::BootstrapFailed(error));
                // The client would only wait for what does not come.
                self.shut(now, Ended::ConnectionLost);
            }
            Purpose::Unwatched => {}
        }
    }

    pub(super) fn notified(&mut self, now: Millis, purpose: Purpose, response: &Message) {
        let Purpose::Observe { id, path } = purpose else { return };
        match operation::answer(&path, response) {
            Ok(Answer { content: Content::Entries(entries), .. }) => {
                self.steps.push(Step::Notified { id, path, entries });
            }
            Ok(_) => self.observation_ended(now, purpose, ExchangeError::Broken.into()),
            Err(error) => self.observation_ended(now, purpose, error),
        }
    }

    pub(super) fn observation_ended(&mut self, now: Millis, purpose: Purpose, error: RequestError) {
        let Purpose::Observe { id, path } = purpose else { return };
        self.cancel(now, |tag| *tag == purpose, Purpose::Unwatched);
        self.steps.push(Step::ObservationEnded { id, path, error });
    }
}
