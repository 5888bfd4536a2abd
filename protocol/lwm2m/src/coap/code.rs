//! Request methods, response codes and signalling codes (RFC 7252 section 12.1, RFC 7959, 8132 and 8323).

use std::fmt;

/// A code: three bits of class and five of detail, written `c.dd`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u8);

macro_rules! codes {
    ($($name:ident = $class:literal . $detail:literal, $doc:literal;)+) => {
        impl Code {
            $(#[doc = $doc] pub const $name: Self = Self::new($class, $detail);)+
        }
    };
}

codes! {
    EMPTY = 0 . 0, "0.00 Empty message: only with datagrams.";
    GET = 0 . 1, "0.01 GET.";
    POST = 0 . 2, "0.02 POST.";
    PUT = 0 . 3, "0.03 PUT.";
    DELETE = 0 . 4, "0.04 DELETE.";
    FETCH = 0 . 5, "0.05 FETCH (RFC 8132).";
    PATCH = 0 . 6, "0.06 PATCH (RFC 8132).";
    IPATCH = 0 . 7, "0.07 iPATCH (RFC 8132).";
    CREATED = 2 . 1, "2.01 Created.";
    DELETED = 2 . 2, "2.02 Deleted.";
    VALID = 2 . 3, "2.03 Valid.";
    CHANGED = 2 . 4, "2.04 Changed.";
    CONTENT = 2 . 5, "2.05 Content.";
    CONTINUE = 2 . 31, "2.31 Continue (RFC 7959).";
    BAD_REQUEST = 4 . 0, "4.00 Bad Request.";
    UNAUTHORIZED = 4 . 1, "4.01 Unauthorized.";
    BAD_OPTION = 4 . 2, "4.02 Bad Option.";
    FORBIDDEN = 4 . 3, "4.03 Forbidden.";
    NOT_FOUND = 4 . 4, "4.04 Not Found.";
    METHOD_NOT_ALLOWED = 4 . 5, "4.05 Method Not Allowed.";
    NOT_ACCEPTABLE = 4 . 6, "4.06 Not Acceptable.";
    REQUEST_ENTITY_INCOMPLETE = 4 . 8, "4.08 Request Entity Incomplete (RFC 7959).";
    PRECONDITION_FAILED = 4 . 12, "4.12 Precondition Failed.";
    REQUEST_ENTITY_TOO_LARGE = 4 . 13, "4.13 Request Entity Too Large.";
    UNSUPPORTED_CONTENT_FORMAT = 4 . 15, "4.15 Unsupported Content-Format.";
    INTERNAL_SERVER_ERROR = 5 . 0, "5.00 Internal Server Error.";
    NOT_IMPLEMENTED = 5 . 1, "5.01 Not Implemented.";
    BAD_GATEWAY = 5 . 2, "5.02 Bad Gateway.";
    SERVICE_UNAVAILABLE = 5 . 3, "5.03 Service Unavailable.";
    GATEWAY_TIMEOUT = 5 . 4, "5.04 Gateway Timeout.";
    PROXYING_NOT_SUPPORTED = 5 . 5, "5.05 Proxying Not Supported.";
    CSM = 7 . 1, "7.01 Capabilities and settings (RFC 8323).";
    PING = 7 . 2, "7.02 Ping (RFC 8323).";
    PONG = 7 . 3, "7.03 Pong (RFC 8323).";
    RELEASE = 7 . 4, "7.04 Release (RFC 8323).";
    ABORT = 7 . 5, "7.05 Abort (RFC 8323).";
}

impl Code {
    /// The code `class.detail`; bits that do not fit are cut.
    pub const fn new(class: u8, detail: u8) -> Self {
        Self((class << 5) | (detail & 0x1f))
    }

    /// A code from its byte on the wire.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte on the wire.
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// 0 for requests, 2, 4 and 5 for responses, 7 for signals.
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// The number after the dot.
    pub const fn detail(self) -> u8 {
        self.0 & 0x1f
    }

    /// A method, known or not.
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != 0
    }

    /// An answer of any kind.
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }

    /// An answer that says yes.
    pub const fn is_success(self) -> bool {
        self.class() == 2
    }

    /// A message about the connection itself.
    pub const fn is_signal(self) -> bool {
        self.class() == 7
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.detail())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
