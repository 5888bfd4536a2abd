//! Sends events to webhooks and mailboxes: each subscription in a task of its own, so that a slow or dead receiver holds up nobody else.
//!
//! ```text
//! work           finds what is due and starts a turn for it, so many at once
//!   └ turn       one subscription: event after event, until there is no more, its time is over, or a try fails
//!       ├ sender     one try, over the connections of `outgoing`
//!       │   ├ signature  proves to the receiver who sent it, and when
//!       │   └ mailer     the way to a mailbox instead
//!       └ retry      what becomes of a try that failed
//! letters        invitations, which are no events
//! ```
//!
//! The store knows every position; what is remembered here only saves looking twice.

mod letters;
mod mailer;
mod retry;
mod sender;
mod signature;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fleet_store::{Change, DueSubscription, StoreError};
use protocol_types::{AccountName, GroupName};
use tokio::task::{Id, JoinSet};

pub(crate) use letters::send_invitations;
pub(crate) use mailer::{SCHEME as MAIL_SCHEME, is_address as is_mail_address};
use sender::Sender;
pub(crate) use signature::WebhookSecret;

use crate::{fleet::Fleet, pacer::Pacer};

/// Shortest time between two looks.
const REST: Duration = Duration::from_millis(50);
/// Longest time between two looks: a signal may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

type Key = (AccountName, GroupName);

/// How far a turn has looked without finding anything that is wanted. It need not be written down: whoever starts again looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looked {
    revision: i64,
    through: u64,
}

/// What is under way.
#[derive(Default)]
struct Turns {
    tasks: JoinSet<Option<Looked>>,
    keys: HashMap<Id, Key>,
    running: HashSet<Key>,
    looked: HashMap<Key, Looked>,
}

/// Runs until the service stops.
pub(crate) async fn work(fleet: Fleet) {
    let sender = Arc::new(Sender::new(&fleet.config));
    let mut pacer = Pacer::new(&fleet, REST, is_event);
    let mut turns = Turns::default();
    while !fleet.stop.is_cancelled() {
        let pause = match turns.start_due(&fleet, &sender).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(error = %crate::Chain(&error), "events to deliver could not be looked for");
                LOOK_AGAIN
            }
        };
        pacer.wait_or(pause, turns.ended()).await;
    }
    // A try under way is cut off; its event is sent again after the next start.
    turns.tasks.shutdown().await;
}

/// Whether there may be something to send.
const fn is_event(change: &Change) -> bool {
    matches!(change, Change::Event(_))
}

impl Turns {
    /// Starts a turn for what is due, as far as there may be more at once. Answers how long nothing else becomes due by time.
    async fn start_due(&mut self, fleet: &Fleet, sender: &Arc<Sender>) -> Result<Duration, StoreError> {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.note(ended);
        }
        let now = fleet.clock.now();
        let due = fleet.store.service_wide().due_subscriptions().await?;
        let keys: HashSet<Key> = due.iter().map(|due| (due.account.clone(), due.name.clone())).collect();
        self.looked.retain(|key, _| keys.contains(key));
        let mut pause = LOOK_AGAIN;
        for subscription in due {
            if subscription.next_try > now {
                pause = pause.min(Duration::from_secs(subscription.next_try.0 - now.0));
                break;
            }
            if self.tasks.len() >= fleet.config.webhooks.at_once {
                break;
            }
            let key = (subscription.account.clone(), subscription.name.clone());
            if !self.running.contains(&key) && self.has_more(&key, &subscription) {
                let account = fleet.store.account(&subscription.account);
                let task = turn::turn(fleet.clone(), sender.clone(), account, subscription.name);
                let id = self.tasks.spawn(task).id();
                self.keys.insert(id, key.clone());
                self.running.insert(key);
            }
        }
        Ok(pause)
    }

    fn has_more(&self, key: &Key, due: &DueSubscription) -> bool {
        let looked = self.looked.get(key).filter(|looked| looked.revision == due.revision);
        due.asked || looked.map_or(due.position, |looked| looked.through.max(due.position)) < due.last_event
    }

    /// Waits for the end of a turn, for ever if none is under way.
    async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.note(ended),
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, ended: Result<(Id, Option<Looked>), tokio::task::JoinError>) {
        let (id, looked) = match ended {
            Ok((id, looked)) => (id, looked),
            Err(error) => {
                tracing::error!(%error, "a delivery broke off");
                (error.id(), None)
            }
        };
        let Some(key) = self.keys.remove(&id) else { return };
        self.running.remove(&key);
        match looked {
            Some(looked) => drop(self.looked.insert(key, looked)),
            None => drop(self.looked.remove(&key)),
        }
    }
}
