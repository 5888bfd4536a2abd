//! One try to deliver: an HTTP request to a webhook, or a message to a mailbox.

use std::time::Duration;

use fleet_store::EventRow;
use protocol_types::{AccountName, UnixSeconds};
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};

use super::{
    mailer::{Mailer, SCHEME},
    retry::Failure,
    signature::signature,
};
use crate::{
    cloud_event::cloud_event,
    config::Config,
    outgoing::{AddressPolicy, Outgoing, Target},
    traces,
};

/// What a receiver may say in its answer; the rest is not read.
const ANSWER_BYTES: usize = 16 * 1024;
/// Longest reason that is kept, in characters.
const REASON_CHARACTERS: usize = 300;

/// The ways to receivers.
pub(super) struct Sender {
    outgoing: Outgoing,
    mailer: Result<Mailer, String>,
}

/// What is to be delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) account: &'a AccountName,
    /// One event for a webhook, some for a mailbox.
    pub(super) events: &'a [EventRow],
    pub(super) secrets: &'a [Vec<u8>],
    pub(super) now: UnixSeconds,
}

impl Sender {
    pub(super) fn new(config: &Config) -> Self {
        let settings = &config.webhooks;
        let patience = Duration::from_secs(settings.answer_s);
        let policy = AddressPolicy::new("webhooks.allow", &settings.allow);
        let mailer = Mailer::new(config.mail.as_ref(), patience);
        Self { outgoing: Outgoing::new(policy, patience), mailer }
    }

    /// Sends what there is to wherever it is sent.
    pub(super) async fn send(&self, url: &str, message: Message<'_>) -> Result<(), Failure> {
        match url.strip_prefix(SCHEME) {
            Some(mailbox) => {
                let mailer = self.mailer.as_ref().map_err(|reason| failure(reason.clone()))?;
                mailer.send(mailbox, message.account, message.events).await.map_err(failure)
            }
            None => {
                for event in message.events {
                    self.post(url, message, event).await?;
                }
                Ok(())
            }
        }
    }

    /// Sends an event. That it was accepted means an answer with a status of 200 to 299.
    async fn post(&self, url: &str, message: Message<'_>, event: &EventRow) -> Result<(), Failure> {
        let target = Target::parse(url).map_err(|error| failed(&error))?;
        let client = self.outgoing.client_for(&target).map_err(|error| failed(&error))?;
        let Message { account, secrets, now, .. } = message;
        let id = format!("evt_{account}_{}", event.id);
        let body = serde_json::to_vec(&cloud_event(account, event.clone())).map_err(|error| failed(&error))?;
        let mut request = client
            .post(target.url)
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now.0)
            .header("webhook-signature", signature(secrets, &id, now, &body))
            .body(body);
        if let Some(place) = traces::of(&tracing::Span::current()) {
            request = request.header(traces::HEADER, place);
        }
        // The address may hold what only its owner should know; it stands in no message.
        let mut answer = request.send().await.map_err(|error| failed(&error.without_url()))?;
        let status = answer.status();
        let retry_after_s =
            answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        if status.is_success() {
            // An answer that was read to its end leaves the connection free for the next event.
            let mut read = 0;
            while let Ok(Some(piece)) = answer.chunk().await {
                read += piece.len();
                if read > ANSWER_BYTES {
                    break;
                }
            }
            return Ok(());
        }
        let reason = format!("the receiver answered {}", status.as_u16());
        Err(Failure { reason, gone: status == StatusCode::GONE, retry_after_s })
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    failure(crate::Chain(error).to_string())
}

fn failure(reason: String) -> Failure {
    let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_CHARACTERS).collect();
    Failure { reason, gone: false, retry_after_s: None }
}
