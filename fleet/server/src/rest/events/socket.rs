//! `/events/socket`: events as they happen, each a text message of a WebSocket (CloudEvents' protocol binding, `cloudevents.json`).

use std::time::Duration;

use axum::{
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use fleet_api::{Event, ProblemCode, StreamQuery};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::Parameters,
        caller::{Caller, need},
        events::follower::Follower,
    },
};

/// Signs of life on a quiet stream.
const ALIVE: Duration = Duration::from_secs(15);
/// How long a client may take to accept a message.
const ACCEPT: Duration = Duration::from_secs(30);
/// A client has nothing to say but that it is there; longer and further messages end the stream.
const CLIENT_BYTES: usize = 1024;
const CLIENT_MESSAGES: u32 = 1000;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(connect))
}

/// Events as they happen, each a CloudEvent in a text message. A stream lives ten minutes at most; a client then dials again with `after`
/// and misses nothing.
#[utoipa::path(get, path = "/events/socket", tag = "events", operation_id = "connect_events", params(StreamQuery),
    security(("token" = ["read"])), responses((status = 101, description = "A WebSocket with a message for each event", body = Event)))]
async fn connect(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<StreamQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply<Response> {
    let no_upgrade = |_| Refusal::new(ProblemCode::MalformedRequest, "the request does not ask for a WebSocket");
    let upgrade = upgrade.map_err(no_upgrade)?;
    let full = |_| Refusal::new(ProblemCode::Unavailable, "as many WebSockets are open as there may be");
    let place = fleet.sockets.clone().try_acquire_owned().map_err(full)?;
    let follower = Follower::begin(fleet, who.account, query).await?;
    let upgrade = upgrade.protocols(["cloudevents.json"]).max_message_size(CLIENT_BYTES).max_frame_size(CLIENT_BYTES);
    Ok(upgrade.on_upgrade(move |socket| async move {
        send(socket, follower).await;
        drop(place);
    }))
}

/// Sends events until the stream is to end or the client is gone.
async fn send(mut socket: WebSocket, mut follower: Follower) {
    let mut alive = signs_of_life();
    let mut heard = 0;
    loop {
        let message = tokio::select! {
            event = follower.next() => match event.map(|event| serde_json::to_string(&event)) {
                Some(Ok(text)) => Message::Text(text.into()),
                Some(Err(_)) | None => break,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_)))
                    if heard < CLIENT_MESSAGES =>
                {
                    heard += 1;
                    continue;
                }
                Some(_) | None => return,
            },
            _ = alive.tick() => Message::Ping(Default::default()),
        };
        if !matches!(timeout(ACCEPT, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
    let frame = CloseFrame { code: close_code::AWAY, reason: "dial again with the last position".into() };
    // A client that does not hear the end notices it anyway.
    drop(timeout(ACCEPT, socket.send(Message::Close(Some(frame)))).await);
}

fn signs_of_life() -> Interval {
    let mut alive = interval(ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, StatusCode, header};
    use fleet_api::TokenScope;
    use futures_util::StreamExt;
    use serde_json::{Value, json};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::{
        WebSocketStream, client_async,
        tungstenite::{Error, Message as Received, client::IntoClientRequest},
    };

    use super::*;
    use crate::test_service::TestService;

    /// Serves the API without TLS; its address.
    async fn serve(service: &TestService) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = service.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    async fn dial(address: &str, query: &str, token: &str) -> Result<WebSocketStream<TcpStream>, Error> {
        let mut request = format!("ws://{address}/api/v1/events/socket{query}").into_client_request().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        client_async(request, stream).await.map(|(socket, _)| socket)
    }

    /// The next message that is more than a sign of life.
    async fn message(socket: &mut WebSocketStream<TcpStream>) -> Received {
        loop {
            let message = timeout(Duration::from_secs(20), socket.next()).await.unwrap().unwrap().unwrap();
            if !message.is_ping() {
                return message;
            }
        }
    }

    async fn next(socket: &mut WebSocketStream<TcpStream>) -> Value {
        serde_json::from_str(message(socket).await.to_text().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_websocket_goes_on_where_it_was_left_and_gives_each_event_once() {
        let service = TestService::start().await;
        let address = serve(&service).await;
        let caller = service.caller("default").await;
        let token = service.token("default", &[TokenScope::Read]).await;
        let wish = json!({"name": "groups", "types": ["group.*"]});
        assert_eq!(caller.post("/subscriptions", &wish).await.0, StatusCode::CREATED);
        let mut socket = dial(&address, "?subscription=groups", &token).await.unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(caller.post("/groups", &json!({"name": name})).await.0, StatusCode::CREATED);
        }
        let first = next(&mut socket).await;
        assert_eq!((&first["specversion"], &first["subject"]), (&json!("1.0"), &json!("groups/a")));
        drop(socket);
        let after = format!("?subscription=groups&after={}", first["id"].as_str().unwrap());
        let mut socket = dial(&address, &after, &token).await.unwrap();
        assert_eq!(next(&mut socket).await["subject"], "groups/b");
        assert_eq!(next(&mut socket).await["subject"], "groups/c");
        service.fleet.stop.cancel();
        let end = message(&mut socket).await;
        assert!(matches!(&end, Received::Close(Some(frame)) if u16::from(frame.code) == 1001), "{end}");
    }

    #[tokio::test]
    async fn who_may_not_read_gets_no_websocket_and_who_asks_for_none_is_told() {
        let service = TestService::start().await;
        let address = serve(&service).await;
        let token = service.token("default", &[TokenScope::Publish]).await;
        for (token, query, status) in [
            (token.as_str(), "", StatusCode::FORBIDDEN),
            ("mblt_nobody", "", StatusCode::UNAUTHORIZED),
            (&service.token("default", &[TokenScope::Read]).await, "?subscription=nothing", StatusCode::NOT_FOUND),
        ] {
            let Err(Error::Http(answer)) = dial(&address, query, token).await else { panic!("{query} was let in") };
            assert_eq!(answer.status().as_u16(), status.as_u16(), "{query}");
        }
        let caller = service.caller("default").await;
        let (status, refused) =
            caller.send(Request::get("/events/socket").body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!((status, &refused["code"]), (StatusCode::BAD_REQUEST, &json!("malformed_request")));
    }
}
