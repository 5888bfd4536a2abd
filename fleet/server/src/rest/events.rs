//! `/events`: what happened in the account, as pages and as a stream of server-sent events that can be taken up again.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{
        Sse,
        sse::{Event as Message, KeepAlive},
    },
};
use fleet_api::{Event, Page, PageQuery, StreamQuery, forms};
use fleet_store::{AccountScope, Change, EventRow, EventSelection};
use futures_util::{Stream, stream};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, sleep, timeout_at},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Refusal, Reply,
    body::Parameters,
    caller::{Caller, need},
    paging::Paging,
};
use crate::{cloud_event::cloud_event, fleet::Fleet};

/// Events that a stream reads from the store at a time.
const BATCH: u32 = 100;
/// A stream looks by itself this often, for signals that were lost.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Signs of life on a quiet stream.
const ALIVE: Duration = Duration::from_secs(15);
/// Longest life of a stream; the client dials again, and its token is looked at again.
const LIFE: Duration = Duration::from_secs(10 * 60);

pub(super) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(follow))
}

/// An event as the API shows it.
pub(super) fn view(account: &AccountScope, row: EventRow) -> Event {
    cloud_event(account.name(), row)
}

/// The events of the account, oldest first.
#[utoipa::path(get, path = "/events", tag = "events", operation_id = "list_events", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of events", body = forms::EventPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Event>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.events_after(paging.after_number()?, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.id.to_string(), |row| view(&who.account, row))))
}

/// Events as they happen, each with its position as `id`. A stream lives ten minutes at most; a client then dials again with
/// `Last-Event-ID` and misses nothing.
#[utoipa::path(get, path = "/events/stream", tag = "events", operation_id = "follow_events",
    params(StreamQuery, ("last-event-id" = Option<u64>, Header, description = "The last event that came")),
    security(("token" = ["read"])),
    responses((status = 200, description = "Server-sent events", body = Event, content_type = "text/event-stream")))]
async fn follow(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<StreamQuery>,
    headers: HeaderMap,
) -> Reply<Sse<impl Stream<Item = Result<Message, Infallible>>>> {
    // Listening begins before the first look, so nothing falls between the two.
    let changes = fleet.signals.subscribe();
    let named = last_event_id(&headers)?.or(query.after);
    let (wanted, position) = match &query.subscription {
        Some(name) => {
            let row = who.account.subscription(name).await?;
            (row.wanted, row.position)
        }
        None => (EventSelection::everything(), who.account.last_event().await?),
    };
    let ends = Instant::now() + LIFE;
    let (account, after) = (who.account, named.unwrap_or(position));
    let follower = Follower { fleet, account, wanted, changes, after, ready: VecDeque::new(), ends };
    let events = stream::unfold(follower, |mut follower| async move {
        let message = follower.next().await?;
        Some((Ok(message), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)))
}

fn last_event_id(headers: &HeaderMap) -> Reply<Option<u64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let position = value.to_str().ok().and_then(|text| text.parse().ok());
    let malformed =
        || Refusal::new(fleet_api::ProblemCode::MalformedRequest, "`Last-Event-ID` is not the position of an event");
    position.map(Some).ok_or_else(malformed)
}

struct Follower {
    fleet: Fleet,
    account: AccountScope,
    wanted: EventSelection,
    changes: Receiver<Change>,
    after: u64,
    ready: VecDeque<EventRow>,
    ends: Instant,
}

impl Follower {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                self.after = row.id;
                return message(view(&self.account, row));
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
        tokio::select! {
            () = sleep(LOOK_AGAIN) => {}
            () = async {
                loop {
                    match self.changes.recv().await {
                        Ok(Change::Event(account)) if account == *self.account.name() => return,
                        Err(RecvError::Lagged(_)) => return,
                        Ok(_) => {}
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            } => {}
        }
    }
}

fn message(event: Event) -> Option<Message> {
    Message::default().id(event.id.clone()).event(event.kind.clone()).json_data(event).ok()
}
