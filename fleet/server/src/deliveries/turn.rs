//! One turn of one subscription: event after event in their order, each only after the one before it was accepted.

use std::{sync::Arc, time::Duration};

use fleet_store::{AccountScope, AfterFailure, Delivery, EventRow, FailedTry, StoreError};
use protocol_types::GroupName;
use tokio::time::{Instant, sleep};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    Looked,
    mailer::SCHEME,
    retry::{self, Before, Failure, Limits},
    sender::{Message, Sender},
};
use crate::{fleet::Fleet, metrics::DeliveryLabels, traces};

/// Events between two notes of the position: what a service that dies at the wrong instant sends twice at most.
const TOGETHER: u32 = 50;
/// Events in one letter.
const IN_ONE_LETTER: usize = 50;
/// Longest turn, after which others that wait for theirs come first.
const LONGEST: Duration = Duration::from_secs(10);
/// So many events that nobody wanted are noted, so that no start of the service looks at them all again.
const UNWANTED: u64 = 200;

/// Delivers what there is. Answers how far it looked where that is not written down.
pub(super) async fn turn(fleet: Fleet, sender: Arc<Sender>, account: AccountScope, name: GroupName) -> Option<Looked> {
    let turn = Turn { fleet, sender, account, name, ends: Instant::now() + LONGEST };
    match Box::pin(turn.run()).await {
        Ok(looked) => looked,
        Err(error) => {
            let (account, subscription) = (turn.account.name(), &turn.name);
            tracing::error!(%account, %subscription, error = %crate::Chain(&error), "events were not delivered");
            Box::pin(turn.rest_after(&error)).await;
            None
        }
    }
}

/// Rest after an error of the database, before the next turn of the same subscription.
const REST: Duration = Duration::from_secs(10);

struct Turn {
    fleet: Fleet,
    sender: Arc<Sender>,
    account: AccountScope,
    name: GroupName,
    ends: Instant,
}

impl Turn {
    async fn run(&self) -> Result<Option<Looked>, StoreError> {
        let Some(delivery) = self.account.delivery(&self.name, self.fleet.clock.now()).await? else { return Ok(None) };
        if !self.dead_letters(&delivery).await? {
            return Ok(None);
        }
        self.events(&delivery).await
    }

    /// A filter that cannot be asked any more pauses its subscription; whatever else goes wrong is left to time.
    async fn rest_after(&self, error: &StoreError) {
        if matches!(error, StoreError::FilterTooLarge { .. } | StoreError::GroupInItself { .. })
            && let Err(error) = self.pause(&format!("its filter cannot be asked any more: {error}")).await
        {
            tracing::error!(error = %crate::Chain(&error), "a subscription was not paused");
        }
        tokio::select! {
            () = self.fleet.stop.cancelled() => {}
            () = sleep(REST) => {}
        }
    }

    async fn pause(&self, reason: &str) -> Result<(), StoreError> {
        let now = self.fleet.clock.now();
        let Some(Delivery { row, .. }) = self.account.delivery(&self.name, now).await? else { return Ok(()) };
        let failed = FailedTry {
            event: row.position.saturating_add(1),
            tries: row.tries,
            failures: row.failures,
            reason: reason.to_owned(),
            next_try: now,
            then: AfterFailure::Pause,
        };
        self.account.delivery_failed(&self.name, row.revision, &failed, now).await
    }

    fn is_over(&self) -> bool {
        self.fleet.stop.is_cancelled() || Instant::now() >= self.ends
    }

    /// Tries the dead letters that somebody asked for; answers whether the turn goes on.
    async fn dead_letters(&self, delivery: &Delivery) -> Result<bool, StoreError> {
        let mut failures = delivery.row.failures;
        let asked = self.account.dead_letters_after(&self.name, true, 0, TOGETHER).await?;
        for (letter, event) in asked {
            match self.send(delivery, std::slice::from_ref(&event)).await {
                Ok(()) => {
                    self.account.dead_letter_delivered(&self.name, event.id).await?;
                    failures = 0;
                }
                Err(failure) => {
                    let before = Before { tries: letter.tries, failures };
                    let failed = self.failed((event.id, before), failure);
                    self.account.dead_letter_failed(&self.name, delivery.row.revision, &failed).await?;
                    return Ok(false);
                }
            }
            if self.is_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn events(&self, delivery: &Delivery) -> Result<Option<Looked>, StoreError> {
        let row = &delivery.row;
        let (mut noted, mut before) = (row.position, Before { tries: row.tries, failures: row.failures });
        let mut through = noted;
        // A person reads one letter about several events rather than several letters.
        let at_once = if row.url.as_deref().is_some_and(|url| url.starts_with(SCHEME)) { IN_ONE_LETTER } else { 1 };
        loop {
            let now = self.fleet.clock.now();
            let found = self.account.selected_events(&row.wanted, through, TOGETHER, now).await?;
            for together in found.events.chunks(at_once) {
                let [event, ..] = together else { continue };
                if let Err(failure) = self.send(delivery, together).await {
                    let failed = self.failed((event.id, before), failure);
                    let (account, subscription, tries) = (self.account.name(), &self.name, failed.tries);
                    let reason = &failed.reason;
                    tracing::warn!(%account, %subscription, event = event.id, tries, reason, "an event was not accepted");
                    self.account.delivery_failed(&self.name, row.revision, &failed, now).await?;
                    return Ok(None);
                }
                before = Before::default();
                through = together.last().map_or(through, |last| last.id);
                if self.is_over() {
                    self.account.delivered(&self.name, row.revision, through, now).await?;
                    return Ok(None);
                }
            }
            through = found.through;
            let worth_a_note = !found.events.is_empty() || through.saturating_sub(noted) >= UNWANTED;
            if worth_a_note {
                if !self.account.delivered(&self.name, row.revision, through, now).await? {
                    return Ok(None);
                }
                noted = through;
            }
            if !found.more || self.is_over() {
                return Ok(Some(Looked { revision: row.revision, through }));
            }
        }
    }

    async fn send(&self, delivery: &Delivery, events: &[EventRow]) -> Result<(), Failure> {
        let url = delivery.row.url.as_deref().unwrap_or_default();
        let now = self.fleet.clock.now();
        let message = Message { account: self.account.name(), events, secrets: &delivery.secrets, now };
        let span = self.span(events).await;
        let sent = self.sender.send(url, message).instrument(span.clone()).await;
        if let Err(failure) = &sent {
            span.set_attribute("error.type", failure.reason.clone());
        }
        let result = if sent.is_ok() { "accepted" } else { "failed" };
        self.fleet.metrics.deliveries.get_or_create(&DeliveryLabels { result }).inc();
        sent
    }

    /// The span of a delivery, in the trace of the request that the first of its events comes from.
    async fn span(&self, events: &[EventRow]) -> Span {
        if self.fleet.config.traces.is_none() {
            return Span::none();
        }
        let (account, subscription) = (self.account.name(), &self.name);
        let span = tracing::info_span!("delivery", %account, %subscription, events = events.len());
        if let Some(subject) = events.first().and_then(|event| traces::subject(&event.subject)) {
            traces::adopt_cause(&self.fleet, &self.account, &span, subject).await;
        }
        span
    }

    fn failed(&self, at: (u64, Before), failure: Failure) -> FailedTry {
        let settings = &self.fleet.config.webhooks;
        let limits = Limits { tries: settings.tries, longest_wait_s: settings.longest_wait_s };
        // Without chance the wait is the longest of those that chance would give.
        let roll = self.fleet.random.bytes::<8>().map(u64::from_be_bytes).unwrap_or_default();
        retry::after_failure(at, failure, limits, self.fleet.clock.now(), roll)
    }
}
