//! A CoAP message without what only one transport has: the same value travels in datagrams and in byte streams.

use super::{Code, ContentFormat, OptionNumber, Options, Token};

/// A request, a response, a signal or an empty message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub code: Code,
    /// Which request it is, or which it answers.
    pub token: Token,
    /// Its options.
    pub options: Options,
    /// Its payload, empty if there is none.
    pub payload: Vec<u8>,
}

impl Message {
    /// A message with this code and nothing else.
    pub const fn new(code: Code) -> Self {
        Self { code, token: Token::EMPTY, options: Options::new(), payload: Vec::new() }
    }

    /// Adds the segments of `path`, which are split at `/`, to Uri-Path.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            self.options.push(OptionNumber::URI_PATH, segment.as_bytes());
        }
        self
    }

    /// Adds one Uri-Query, for example `ep=gate-42`.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.options.push(OptionNumber::URI_QUERY, query.as_bytes());
        self
    }

    /// Sets the payload and its Content-Format.
    #[must_use]
    pub fn content(mut self, format: ContentFormat, payload: impl Into<Vec<u8>>) -> Self {
        self.options.set_uint(OptionNumber::CONTENT_FORMAT, u32::from(format.0));
        self.payload = payload.into();
        self
    }

    /// Asks for an answer in this format.
    #[must_use]
    pub fn accept(mut self, format: ContentFormat) -> Self {
        self.options.set_uint(OptionNumber::ACCEPT, u32::from(format.0));
        self
    }

    /// Sets an option whose value is an unsigned integer.
    #[must_use]
    pub fn with_uint(mut self, number: OptionNumber, value: u32) -> Self {
        self.options.set_uint(number, value);
        self
    }

    /// Sets the token.
    #[must_use]
    pub const fn with_token(mut self, token: Token) -> Self {
        self.token = token;
        self
    }

    /// A response with a sentence for people as diagnostic payload (RFC 7252 section 5.5.2).
    pub fn refusal(code: Code, why: &str) -> Self {
        let mut message = Self::new(code);
        message.payload = why.as_bytes().to_vec();
        message
    }

    /// The segments of Uri-Path.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.options.texts(OptionNumber::URI_PATH)
    }

    /// Uri-Path as text, each segment after a `/`; empty for the root.
    pub fn uri_path(&self) -> String {
        self.segments().fold(String::new(), |path, segment| path + "/" + segment)
    }

    /// The value of the first Uri-Query `name=value`; `Some("")` for a query without `=`.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.queries().find(|(given, _)| *given == name).map(|(_, value)| value)
    }

    /// Every Uri-Query, split at its first `=`.
    pub fn queries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.texts(OptionNumber::URI_QUERY).map(|query| query.split_once('=').unwrap_or((query, "")))
    }

    /// The format of the payload.
    pub fn content_format(&self) -> Option<ContentFormat> {
        self.format_option(OptionNumber::CONTENT_FORMAT)
    }

    /// The format that the answer should have.
    pub fn accepted(&self) -> Option<ContentFormat> {
        self.format_option(OptionNumber::ACCEPT)
    }

    /// The payload as text for people, cut after 200 characters and without control characters.
    pub fn diagnostic(&self) -> String {
        let start = &self.payload[..self.payload.len().min(800)];
        let text = String::from_utf8_lossy(start);
        text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    fn format_option(&self, number: OptionNumber) -> Option<ContentFormat> {
        self.options.uint(number).and_then(|value| u16::try_from(value).ok()).map(ContentFormat)
    }
}

#[cfg(test)]
pub(crate) mod strategy {
    use proptest::prelude::*;

    use super::*;

    /// Any message that is not empty, with any options.
    pub(crate) fn any_message() -> impl Strategy<Value = Message> {
        let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
        let options = proptest::collection::vec((any::<u16>(), bytes(300)), 0..8);
        (1..=u8::MAX, bytes(9), options, bytes(500)).prop_map(|(code, token, list, payload)| {
            let mut options = Options::new();
            list.iter().for_each(|(number, value)| options.push(OptionNumber(*number), value));
            Message { code: Code::from_byte(code), token: Token::new(&token).unwrap(), options, payload }
        })
    }
}
