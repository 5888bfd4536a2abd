//! The requests by which a client registers, updates and leaves (LwM2M 1.1 section 6.2). Never sends them.

use crate::{
    coap::{Code, ContentFormat, Message, OptionNumber},
    formats::{Link, link},
    object::ServerAccount,
};

/// `POST /rd`
pub(super) fn register(endpoint: &str, account: &ServerAccount, links: &[Link]) -> Message {
    Message::new(Code::POST)
        .path("rd")
        .query(&format!("ep={endpoint}"))
        .query(&format!("lt={}", account.lifetime))
        .query("lwm2m=1.1")
        .query(&format!("b={}", account.binding))
        .content(ContentFormat::LINK, link::write(links))
}

/// What the server gave back for a registration: the segments of its location.
pub(super) fn location(response: &Message) -> Option<Vec<String>> {
    let segments: Vec<_> = response.options.texts(OptionNumber::LOCATION_PATH).map(str::to_owned).collect();
    (!segments.is_empty()).then_some(segments)
}

/// `POST` to the location, with what has changed.
pub(super) fn update(
    location: &[String],
    lifetime: Option<u32>,
    binding: Option<&str>,
    links: Option<&[Link]>,
) -> Message {
    let mut message = at(Code::POST, location);
    if let Some(lifetime) = lifetime {
        message = message.query(&format!("lt={lifetime}"));
    }
    if let Some(binding) = binding {
        message = message.query(&format!("b={binding}"));
    }
    match links {
        Some(links) => message.content(ContentFormat::LINK, link::write(links)),
        None => message,
    }
}

/// `DELETE` of the location.
pub(super) fn deregister(location: &[String]) -> Message {
    at(Code::DELETE, location)
}

fn at(code: Code, location: &[String]) -> Message {
    let mut message = Message::new(code);
    location.iter().for_each(|segment| message.options.push(OptionNumber::URI_PATH, segment.as_bytes()));
    message
}
