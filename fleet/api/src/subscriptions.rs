//! Subscriptions: independent streams of an account's events, each with a position of its own, sent to a webhook or read by somebody.

use protocol_types::{GroupName, UnixSeconds};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError, Event, Page, PageQuery};

/// A stream of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subscription {
    /// Its name, for ever.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it.
    pub title: String,
    /// Kinds of events, as in `device.lost` or `device.*`; without any, every kind.
    pub types: Vec<String>,
    /// A filter: only events about devices for which it is true when they are delivered. Empty for all events.
    pub filter: String,
    /// Where its events are sent; without it and a mailbox, somebody reads and acknowledges them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// The mailbox that its events are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<String>,
    /// Every event up to this one was accepted, is not wanted, or is a dead letter.
    pub position: u64,
    /// How many events of the account come after the position, whether they are wanted or not.
    pub behind: u64,
    /// Why nothing is sent at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// How many tries in a row have failed.
    pub failures: u32,
    /// Why the last try failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Before this time nothing is tried, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub next_try: Option<UnixSeconds>,
    /// How many dead letters it has.
    pub dead_letters: u64,
    /// When it was made, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
    /// Counts every change that a person makes; also the `ETag`.
    pub revision: i64,
}

/// Asks for a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSubscription {
    /// Its name: 1 to 32 lower-case letters, digits or `-`, starting with a letter.
    #[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub name: GroupName,
    /// What people call it; at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: String,
    /// Kinds of events, as in `device.lost` or `device.*`; without any, every kind.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub types: Vec<String>,
    /// A filter: only events about devices for which it is true. Empty for all events.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub filter: String,
    /// Where its events are sent: an `https` address; without it, somebody reads and acknowledges them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000)]
    pub webhook: Option<String>,
    /// The mailbox that its events are sent to, instead of a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 254)]
    pub mail: Option<String>,
    /// It begins after this event; without it, with what happens from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// A subscription that was made, or whose secret was changed.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedSubscription {
    /// The subscription.
    pub subscription: Subscription,
    /// The secret that signs what is sent, shown this once: `whsec_` and base 64. Absent without a webhook, and where a request with the
    /// same `Idempotency-Key` made it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl std::fmt::Debug for CreatedSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedSubscription").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

/// Changes a subscription; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSubscription {
    /// What people call it from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub title: Option<String>,
    /// Kinds of events from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 32)]
    pub types: Option<Vec<String>>,
    /// The filter from now on; empty for all events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub filter: Option<String>,
    /// Where its events are sent from now on, if they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000)]
    pub webhook: Option<String>,
    /// The mailbox that its events are sent to from now on, if they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 254)]
    pub mail: Option<String>,
    /// Whether it rests. At the end of a pause it goes on where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// Asks for events once more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayEvents {
    /// Everything after this event; the position moves there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// These dead letters, by the position of their event. They are tried as often as any event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 500)]
    pub dead_letters: Vec<u64>,
}

/// Says how far somebody has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeEvents {
    /// Every event up to this one was dealt with.
    pub position: u64,
}

/// Some events of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionEvents {
    /// The wanted events after the position, oldest first.
    pub items: Vec<Event>,
    /// Acknowledge this when they are dealt with; it is also behind what is not wanted.
    pub through: u64,
    /// Whether there is more after that.
    pub more: bool,
}

/// An event that was tried as often as one is, and not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// The event.
    pub event: Event,
    /// How often it was tried.
    pub tries: u32,
    /// Why the last try failed.
    pub reason: String,
    /// When it was given up, in Unix seconds.
    #[schema(value_type = u64)]
    pub since: UnixSeconds,
    /// When somebody asked for another try that is still to come, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub asked: Option<UnixSeconds>,
}

/// How many events to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SubscriptionEventsQuery {
    /// Most events: 1 to 500, 100 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

impl Client {
    /// The subscriptions of the account, by name.
    pub async fn subscriptions(&self, page: &PageQuery) -> Result<Page<Subscription>, ClientError> {
        self.get("/subscriptions", page).await
    }

    /// One subscription.
    pub async fn subscription(&self, name: &GroupName) -> Result<Subscription, ClientError> {
        self.get(&format!("/subscriptions/{name}"), &()).await
    }

    /// Makes a subscription.
    pub async fn create_subscription(&self, wanted: &CreateSubscription) -> Result<CreatedSubscription, ClientError> {
        self.post("/subscriptions", wanted).await
    }

    /// Changes a subscription, if it is still at `revision`.
    pub async fn change_subscription(
        &self,
        name: &GroupName,
        change: &ChangeSubscription,
        revision: Option<i64>,
    ) -> Result<Subscription, ClientError> {
        self.patch(&format!("/subscriptions/{name}"), change, revision).await
    }

    /// Forgets a subscription, its position and its dead letters.
    pub async fn delete_subscription(&self, name: &GroupName) -> Result<(), ClientError> {
        self.delete(&format!("/subscriptions/{name}")).await
    }

    /// Gives a webhook another secret.
    pub async fn rotate_subscription_secret(&self, name: &GroupName) -> Result<CreatedSubscription, ClientError> {
        self.post_empty(&format!("/subscriptions/{name}/rotate-secret")).await
    }

    /// The events of a subscription after its position.
    pub async fn subscription_events(
        &self,
        name: &GroupName,
        query: &SubscriptionEventsQuery,
    ) -> Result<SubscriptionEvents, ClientError> {
        self.get(&format!("/subscriptions/{name}/events"), query).await
    }

    /// Says how far the events of a subscription were dealt with.
    pub async fn acknowledge_events(&self, name: &GroupName, position: u64) -> Result<Subscription, ClientError> {
        self.post(&format!("/subscriptions/{name}/acknowledge"), &AcknowledgeEvents { position }).await
    }

    /// The dead letters of a subscription, oldest event first.
    pub async fn dead_letters(&self, name: &GroupName, page: &PageQuery) -> Result<Page<DeadLetter>, ClientError> {
        self.get(&format!("/subscriptions/{name}/dead-letters"), page).await
    }

    /// Asks for events of a subscription once more.
    pub async fn replay_events(&self, name: &GroupName, wanted: &ReplayEvents) -> Result<Subscription, ClientError> {
        self.post(&format!("/subscriptions/{name}/replay"), wanted).await
    }
}
