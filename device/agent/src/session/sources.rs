//! What a session takes from the artifact server: the address for the relay, and the signed time for a lost clock.

use std::time::Duration;

use protocol_types::SignedTime;
use tokio::time::{Instant, sleep};

use super::Session;
use crate::{
    backoff::Backoff,
    cause::Chain,
    clock::Present,
    facts::{ToldTime, set},
    operational::Operational,
    random,
    relay::Source,
    tls::{ALPN_HTTP, Validity},
    trusted_time::{TimeError, ask_time},
};

impl Session {
    /// Tells the relay where bytes come from, as far as that is known.
    pub(super) fn point_source(&self) {
        let address = self.device.facts.orders.borrow().artifacts.clone();
        let source = match (address, &self.operational) {
            (Some(address), Some(operational)) => Source::Server { address, tls: operational.artifacts().clone() },
            _ => Source::Unknown,
        };
        self.device.facts.source.send_if_modified(|old| {
            let news = !old.is_same(&source);
            if news {
                *old = source;
            }
            news
        });
    }

    /// How long to wait after a question for the time that was not answered.
    pub(super) fn time_retry() -> Backoff {
        Backoff::new(Duration::from_secs(5), Duration::from_secs(300))
    }

    pub(super) fn ask_time_if_needed(&mut self) {
        if self.needs_time() {
            self.ask_time();
        }
    }

    /// Whether the service can be asked what this clock does not know, or what the updater has not heard lately.
    fn needs_time(&self) -> bool {
        let is_lost = matches!(self.present(), Present::AtLeast(_));
        self.client.is_registered() && (is_lost || *self.device.facts.time_wanted.borrow())
    }

    pub(super) fn ask_time(&mut self) {
        self.ask_time_after(Duration::ZERO);
    }

    fn ask_time_after(&mut self, wait: Duration) {
        let identity = &self.device.identity;
        let Some(server) = self.device.facts.orders.borrow().artifacts.clone() else {
            return tracing::debug!("the time cannot be asked before the service has told where");
        };
        if self.asking.is_some() {
            return;
        }
        let credential = self.operational.as_ref().map_or_else(|| identity.factory().clone(), Operational::credential);
        let key = identity.time_key().clone();
        match self.device.trust.client(credential, ALPN_HTTP, Validity::ForTime) {
            Ok(tls) => {
                let network = self.device.network.clone();
                self.asking = Some(Box::pin(async move {
                    sleep(wait).await;
                    ask_time(network.as_ref(), &server, tls, &key).await
                }));
            }
            Err(e) => tracing::error!(error = %Chain(&e), "TLS cannot be configured for asking the time"),
        }
    }

    pub(super) fn learn(&mut self, told: Result<SignedTime, TimeError>) {
        match told {
            Ok(said) => {
                tracing::info!(time = %said.time, "the service told the time");
                let clock = self.device.trust.clock();
                clock.learn(said.time);
                if let Err(e) = self.device.state.keep_floor(clock.floor()) {
                    tracing::error!(error = %Chain(&e), "the time could not be kept");
                }
                set(&self.device.facts.time_wanted, false);
                set(&self.device.facts.signed_time, Some(ToldTime { said, at: Instant::now() }));
                self.time_retry.reset();
            }
            Err(e) => {
                tracing::warn!(error = %Chain(&e), "the service did not tell the time");
                if self.needs_time() {
                    let wait = self.time_retry.wait(random::number());
                    self.ask_time_after(wait);
                }
            }
        }
    }
}
