//! Which format reads and writes which payload.

use crate::coap::{Code, ContentFormat};

/// A payload that cannot be read, or values that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// This side has no codec for the format: 4.15 for a payload, 4.06 for an Accept.
    #[error("the content format {0} is not supported")]
    Unsupported(ContentFormat),
    /// The bytes break the rules of the format: 4.00.
    #[error("the payload is not valid {format}: {what}")]
    Malformed {
        /// The format.
        format: ContentFormat,
        /// Which rule.
        what: &'static str,
    },
    /// A value does not have the type of its resource: 4.00.
    #[error("the value of {path} is not of type {wanted:?}")]
    WrongType {
        /// The resource.
        path: crate::object::Path,
        /// The type of the definition.
        wanted: crate::object::Type,
    },
    /// A value lies outside of the path that the request names: 4.00.
    #[error("{inner} does not lie below {outer}")]
    Outside {
        /// The request's path.
        outer: crate::object::Path,
        /// The value's path.
        inner: String,
    },
    /// The format holds one value, but there are none or several: 4.06.
    #[error("the content format {0} holds exactly one value")]
    NotSingle(ContentFormat),
}

impl FormatError {
    /// The response code for a request whose payload has this error.
    pub const fn code(&self) -> Code {
        match self {
            Self::Unsupported(_) => Code::UNSUPPORTED_CONTENT_FORMAT,
            Self::NotSingle(_) => Code::NOT_ACCEPTABLE,
            Self::Malformed { .. } | Self::WrongType { .. } | Self::Outside { .. } => Code::BAD_REQUEST,
        }
    }
}
