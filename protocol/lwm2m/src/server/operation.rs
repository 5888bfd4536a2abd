//! Operations on a client as requests, and their responses as answers (LwM2M 1.1 sections 6.3 and 6.4). Never sends them.

use super::{Answer, Content, Operation, RequestError};
use crate::{
    client::WriteMode,
    coap::{Code, ContentFormat, Message, OptionNumber},
    formats::{self, link},
    object::Path,
};

/// The request for an operation other than cancelling, which repeats the request of its observation.
pub(super) fn request(operation: &Operation) -> Result<Message, RequestError> {
    Ok(match operation {
        Operation::Read { path, accept } => get(path, *accept),
        Operation::Observe { path, accept } => get(path, *accept).with_uint(OptionNumber::OBSERVE, 0),
        Operation::CancelObserve { path } => get(path, None).with_uint(OptionNumber::OBSERVE, 1),
        Operation::Discover { path } => get(path, Some(ContentFormat::LINK)),
        Operation::Write { path, mode, entries, format } => {
            let payload = formats::encode(*format, path, entries).map_err(RequestError::Encode)?;
            let code = match mode {
                WriteMode::Replace => Code::PUT,
                WriteMode::Partial => Code::POST,
            };
            at(code, path).content(*format, payload)
        }
        Operation::Execute { path, arguments } if arguments.is_empty() => at(Code::POST, path),
        Operation::Execute { path, arguments } => {
            at(Code::POST, path).content(ContentFormat::TEXT, arguments.as_bytes())
        }
        Operation::WriteAttributes { path, attributes } => {
            let pairs = attributes.pairs();
            pairs.iter().fold(at(Code::PUT, path), |message, (name, value)| message.query(&format!("{name}={value}")))
        }
    })
}

/// The path that an operation is about.
pub(super) const fn path(operation: &Operation) -> Path {
    match operation {
        Operation::Read { path, .. }
        | Operation::Write { path, .. }
        | Operation::Execute { path, .. }
        | Operation::Discover { path }
        | Operation::Observe { path, .. }
        | Operation::CancelObserve { path }
        | Operation::WriteAttributes { path, .. } => *path,
    }
}

/// What a response to an operation on `path` says.
pub(super) fn answer(path: &Path, response: &Message) -> Result<Answer, RequestError> {
    if !response.code.is_success() {
        return Err(RequestError::Refused { code: response.code, diagnostic: response.diagnostic() });
    }
    let content = match response.content_format() {
        None if response.payload.is_empty() => Content::None,
        Some(ContentFormat::LINK) => Content::Links(link::parse(&response.payload).map_err(RequestError::Decode)?),
        // LwM2M 1.0 clients leave plain text unmarked.
        format => {
            let format = format.unwrap_or(ContentFormat::TEXT);
            Content::Entries(formats::decode(format, path, &response.payload).map_err(RequestError::Decode)?)
        }
    };
    Ok(Answer { code: response.code, content })
}

pub(super) fn at(code: Code, path: &Path) -> Message {
    path.ids().iter().fold(Message::new(code), |message, id| message.path(&id.to_string()))
}

fn get(path: &Path, accept: Option<ContentFormat>) -> Message {
    let message = at(Code::GET, path);
    if let Some(format) = accept { message.accept(format) } else { message }
}
