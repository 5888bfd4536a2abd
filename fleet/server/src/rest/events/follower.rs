//! Follows the events of an account, for streams of whatever form: what is there, then what happens. Sends nothing itself.

use std::{collections::VecDeque, time::Duration};

use fleet_api::{Event, StreamQuery};
use fleet_store::{AccountScope, Change, EventRow, EventSelection};
use tokio::{
    sync::broadcast::Receiver,
    time::{Instant, sleep, timeout_at},
};

use crate::{cloud_event::cloud_event, fleet::Fleet, rest::Reply, signals::told};

/// Events that a stream reads from the store at a time.
const BATCH: u32 = 100;
/// A stream looks by itself this often, for signals that were lost.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Longest life of a stream; the client dials again, and its token is looked at again.
const LIFE: Duration = Duration::from_secs(10 * 60);

/// Somebody who follows.
pub(crate) struct Follower {
    fleet: Fleet,
    account: AccountScope,
    wanted: EventSelection,
    changes: Receiver<Change>,
    after: u64,
    ready: VecDeque<EventRow>,
    ends: Instant,
}

impl Follower {
    /// Begins after the position `named`, after that of the subscription, or with what happens from now on.
    pub(crate) async fn begin(fleet: Fleet, account: AccountScope, query: StreamQuery) -> Reply<Self> {
        // Listening begins before the first look, so nothing falls between the two.
        let changes = fleet.signals.subscribe();
        let (wanted, position) = match &query.subscription {
            Some(name) => {
                let row = account.subscription(name).await?;
                (row.wanted, row.position)
            }
            None => (EventSelection::everything(), account.last_event().await?),
        };
        let after = query.after.unwrap_or(position);
        let ends = Instant::now() + LIFE;
        Ok(Self { fleet, account, wanted, changes, after, ready: VecDeque::new(), ends })
    }

    /// The next event; nothing when the stream is to end. What was not yet given is given by the next call, if this one is given up.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            // Whoever reads slowly does not get more time than others.
            if Instant::now() >= self.ends || self.fleet.stop.is_cancelled() {
                return None;
            }
            if let Some(row) = self.ready.pop_front() {
                self.after = row.id;
                return Some(cloud_event(self.account.name(), row));
            }
            let now = self.fleet.clock.now();
            match self.account.selected_events(&self.wanted, self.after, BATCH, now).await {
                Ok(found) => {
                    self.ready.extend(found.events);
                    if self.ready.is_empty() {
                        self.after = found.through;
                    }
                    if found.more || !self.ready.is_empty() {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %crate::Chain(&error), "an event stream broke off");
                    return None;
                }
            }
            let stop = self.fleet.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return None,
                waited = timeout_at(self.ends, self.wait()) => waited.ok()?,
            }
        }
    }

    /// Waits until there may be more.
    async fn wait(&mut self) {
        let Self { account, changes, .. } = self;
        let is_ours = |change: &Change| matches!(change, Change::Event(name) if name == account.name());
        tokio::select! {
            () = sleep(LOOK_AGAIN) => {}
            () = told(changes, is_ours) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::test_service::TestService;

    #[tokio::test]
    async fn whoever_reads_slowly_gets_no_more_time_than_others() {
        let service = TestService::start().await;
        let caller = service.caller("acme").await;
        for name in ["one", "two"] {
            assert_eq!(caller.post("/groups", &json!({"name": name})).await.0, StatusCode::CREATED);
        }
        let query = StreamQuery { after: Some(0), ..StreamQuery::default() };
        let account = service.account("acme").await;
        let mut follower = Follower::begin(service.fleet.clone(), account, query).await.unwrap();
        assert!(follower.next().await.is_some());
        assert!(!follower.ready.is_empty(), "there is more to read");
        // Its time goes by before the reader takes the next event.
        follower.ends = Instant::now();
        assert!(follower.next().await.is_none());
    }
}
