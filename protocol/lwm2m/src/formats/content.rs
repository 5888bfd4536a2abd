//! Which format reads and writes which payload.

use super::{Entry, Value, senml_cbor, text, tlv};
use crate::{
    coap::{Code, ContentFormat},
    object::{Path, Type, definition::resource_type},
};

/// What a client answers in when the server does not say, and what this project writes in.
pub const DEFAULT_FORMAT: ContentFormat = ContentFormat::SENML_CBOR;

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
        path: Path,
        /// The type of the definition.
        wanted: Type,
    },
    /// A value lies outside of the path that the request names: 4.00.
    #[error("{inner} does not lie below {outer}")]
    Outside {
        /// The request's path.
        outer: Path,
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

/// Reads a payload that was sent to, or read from, `base`.
pub fn decode(format: ContentFormat, base: &Path, payload: &[u8]) -> Result<Vec<Entry>, FormatError> {
    match format {
        ContentFormat::SENML_CBOR => senml_cbor::decode(base, payload),
        ContentFormat::TLV => tlv::decode(base, payload),
        ContentFormat::TEXT => {
            let kind = single_type(format, base)?;
            let text = std::str::from_utf8(payload);
            let text = text.map_err(|_| FormatError::Malformed { format, what: "it is not UTF-8" })?;
            let value = text::parse(kind, text).ok_or(FormatError::WrongType { path: *base, wanted: kind })?;
            Ok(vec![Entry { path: *base, value, time: None }])
        }
        ContentFormat::OPAQUE => match single_type(format, base)? {
            Type::Opaque => Ok(vec![Entry::new(*base, Value::Opaque(payload.to_vec()))]),
            wanted => Err(FormatError::WrongType { path: *base, wanted }),
        },
        other => Err(FormatError::Unsupported(other)),
    }
}

/// Writes entries, which lie at or below `base` in the order of their paths.
pub fn encode(format: ContentFormat, base: &Path, entries: &[Entry]) -> Result<Vec<u8>, FormatError> {
    match (format, entries) {
        (ContentFormat::SENML_CBOR, _) => senml_cbor::encode(base, entries),
        (ContentFormat::TLV, _) => tlv::encode(base, entries),
        (ContentFormat::TEXT, [one]) if one.path == *base => Ok(text::write(&one.value).into_bytes()),
        (ContentFormat::OPAQUE, [one]) if one.path == *base => match &one.value {
            Value::Opaque(bytes) => Ok(bytes.clone()),
            _ => Err(FormatError::NotSingle(format)),
        },
        (ContentFormat::TEXT | ContentFormat::OPAQUE, _) => Err(FormatError::NotSingle(format)),
        (other, _) => Err(FormatError::Unsupported(other)),
    }
}

/// The type of the one resource that a format without paths is about.
fn single_type(format: ContentFormat, base: &Path) -> Result<Type, FormatError> {
    if base.ids().len() < 3 {
        return Err(FormatError::Malformed { format, what: "it holds one value, but the path is not a resource" });
    }
    let unknown = if format == ContentFormat::OPAQUE { Type::Opaque } else { Type::String };
    Ok(resource_type(base).unwrap_or(unknown))
}
