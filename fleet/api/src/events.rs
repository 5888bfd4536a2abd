//! What happened in the account, as a list and as a stream that can be taken up again where it broke off.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use protocol_types::GroupName;
use reqwest::{Method, Response, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{Client, ClientError, Page, PageQuery};

/// An event, in the form of CloudEvents 1.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// `1.0`.
    pub specversion: String,
    /// Its position in the account: 1, 2, 3 and so on, as text.
    pub id: String,
    /// The account, as in `/accounts/default`.
    pub source: String,
    /// What kind, as in `rollout.started`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about, as in `rollouts/r1` or `devices/gate-42`.
    pub subject: String,
    /// When, by RFC 3339.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// Details.
    #[schema(value_type = Object)]
    pub data: Value,
}

impl Event {
    /// Its position in the account.
    pub fn position(&self) -> Option<u64> {
        self.id.parse().ok()
    }
}

/// Where a stream of events begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Events after this position; `Last-Event-ID` goes before it. Without both, events from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only events of this subscription, from its position on unless another one is named. Reading does not move the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub subscription: Option<GroupName>,
}

/// Longest event in a stream, in bytes.
const EVENT_BYTES: usize = 256 * 1024;
/// How long the stream rests before it dials again.
const REST: Duration = Duration::from_secs(1);

impl Client {
    /// The events of the account, oldest first.
    pub async fn events(&self, page: &PageQuery) -> Result<Page<Event>, ClientError> {
        self.get("/events", page).await
    }

    /// Events as they happen, after position `after` or from now on. A stream that breaks is taken up again after the last event that
    /// came; a refusal ends it.
    pub fn event_stream(&self, after: Option<u64>) -> impl Stream<Item = Result<Event, ClientError>> + Send + use<> {
        self.stream_of(StreamQuery { after, subscription: None })
    }

    /// Events of a subscription as they happen, from its position on.
    pub fn subscription_stream(
        &self,
        name: &GroupName,
    ) -> impl Stream<Item = Result<Event, ClientError>> + Send + use<> {
        self.stream_of(StreamQuery { after: None, subscription: Some(name.clone()) })
    }

    fn stream_of(&self, query: StreamQuery) -> impl Stream<Item = Result<Event, ClientError>> + Send + use<> {
        let listener = Listener { client: self.clone(), query, open: None, buffer: BytesMut::new(), ended: false };
        stream::unfold(listener, |mut listener| async move {
            let item = listener.next().await?;
            Some((item, listener))
        })
    }

    async fn open_stream(&self, query: &StreamQuery) -> Result<Response, ClientError> {
        let path = "/events/stream";
        let request = self.request(Method::GET, path).header(header::ACCEPT, "text/event-stream");
        self.send(path, request.query(query)).await
    }
}

type Pieces = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>;

struct Listener {
    client: Client,
    query: StreamQuery,
    open: Option<Pieces>,
    buffer: BytesMut,
    ended: bool,
}

impl Listener {
    async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        while !self.ended {
            if let Some(event) = self.take_event() {
                return Some(event);
            }
            let Some(pieces) = &mut self.open else {
                match self.client.open_stream(&self.query).await {
                    Ok(answer) => self.open = Some(Box::pin(answer.bytes_stream())),
                    // Only where it is known what was missed, here or at the service, may the loss of a connection be passed over.
                    Err(ClientError::Unreachable { .. })
                        if self.query.after.is_some() || self.query.subscription.is_some() =>
                    {
                        tokio::time::sleep(REST).await
                    }
                    Err(error) => return self.end(error),
                }
                continue;
            };
            match pieces.next().await {
                Some(Ok(piece)) if self.buffer.len() + piece.len() <= EVENT_BYTES => {
                    self.buffer.extend_from_slice(&piece)
                }
                Some(Ok(_)) => return self.end(unexpected()),
                Some(Err(_)) | None => {
                    self.open = None;
                    self.buffer.clear();
                    tokio::time::sleep(REST).await;
                }
            }
        }
        None
    }

    fn end(&mut self, error: ClientError) -> Option<Result<Event, ClientError>> {
        self.ended = true;
        Some(Err(error))
    }

    /// Takes the next complete block, up to its empty line, from the buffer.
    fn take_event(&mut self) -> Option<Result<Event, ClientError>> {
        while let Some(at) = self.buffer.windows(2).position(|two| two == b"\n\n") {
            let block = self.buffer.split_to(at + 2);
            if let Some(event) = parse_block(&block) {
                if let Ok(event) = &event {
                    self.query.after = event.position().or(self.query.after);
                }
                return Some(event);
            }
        }
        None
    }
}

fn unexpected() -> ClientError {
    ClientError::Unexpected { path: "/events/stream".to_owned(), status: 200 }
}

/// The event in one block of a stream; nothing for comments that only keep the connection alive.
fn parse_block(block: &[u8]) -> Option<Result<Event, ClientError>> {
    let text = String::from_utf8_lossy(block);
    let data: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(|data| data.trim_start_matches(' ')).collect();
    if data.is_empty() {
        return None;
    }
    Some(serde_json::from_str(&data.join("\n")).map_err(|_| unexpected()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_events_and_broken_data_is_an_error() {
        assert!(parse_block(b": still here\n\n").is_none());
        assert!(parse_block(b"id: 1\ndata: nonsense\n\n").unwrap().is_err());
        let event = b"id: 7\nevent: x\ndata: {\"specversion\":\"1.0\",\"id\":\"7\",\"source\":\"/accounts/a\",\"type\":\"x\",\"subject\":\"s\",\"time\":\"t\",\"datacontenttype\":\"application/json\",\"data\":{}}\n\n";
        assert_eq!(parse_block(event).unwrap().unwrap().position(), Some(7));
    }
}
