//! `/events`: what happened in the account, as pages and as a stream of server-sent events that can be taken up again.

pub(crate) mod follower;
pub(crate) mod socket;
pub(crate) mod subscriptions;

use std::{convert::Infallible, time::Duration};

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
use fleet_store::{AccountScope, EventRow};
use futures_util::{Stream, stream};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    cloud_event::cloud_event,
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::Parameters,
        caller::{Caller, need},
        events::follower::Follower,
        paging::Paging,
    },
};

/// Signs of life on a quiet stream.
const ALIVE: Duration = Duration::from_secs(15);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(socket::router())
        .merge(subscriptions::router())
        .routes(routes!(list))
        .routes(routes!(follow))
}

/// An event as the API shows it.
pub(crate) fn view(account: &AccountScope, row: EventRow) -> Event {
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
    let after = last_event_id(&headers)?.or(query.after);
    let follower = Follower::begin(fleet, who.account, StreamQuery { after, ..query }).await?;
    let events = stream::unfold(follower, |mut follower| async move {
        let message = message(follower.next().await?)?;
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

fn message(event: Event) -> Option<Message> {
    Message::default().id(event.id.clone()).event(event.kind.clone()).json_data(event).ok()
}
