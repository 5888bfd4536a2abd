//! The pauses between tries to make a local connection: with back-off, and short after a good one. Never gives up.

use std::time::Duration;

use protocol_types::socket::Role;
use tokio::time::{Instant, sleep};

use crate::{backoff::Backoff, cause::Chain, random, socket::LinkError};

const FIRST: Duration = Duration::from_millis(100);
const CEILING: Duration = Duration::from_secs(5);
/// A connection that held this long was a good one: the next failure begins a new series.
const GOOD: Duration = Duration::from_secs(10);

/// One series of tries.
#[derive(Debug)]
pub(crate) struct Redial {
    role: Role,
    backoff: Backoff,
    began: Instant,
    /// The last failure in words, so that a process that is away for long is not logged at every try.
    said: String,
}

impl Redial {
    /// The first try begins now.
    pub(crate) fn new(role: Role) -> Self {
        Self { role, backoff: Backoff::new(FIRST, CEILING), began: Instant::now(), said: String::new() }
    }

    /// The try has ended, by failing; the next one begins when this returns.
    pub(crate) async fn pause(&mut self, ended: Result<(), LinkError>) {
        if self.began.elapsed() >= GOOD {
            self.backoff.reset();
            self.said.clear();
        }
        if let Err(e) = ended {
            let failure = Chain(&e).to_string();
            if failure != self.said {
                tracing::warn!(role = ?self.role, error = failure, "no local connection, trying again until there is one");
                self.said = failure;
            }
        }
        sleep(self.backoff.wait(random::number())).await;
        self.began = Instant::now();
    }
}
