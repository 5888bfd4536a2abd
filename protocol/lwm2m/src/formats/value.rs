//! The value of a resource and the place it belongs to. Never knows a format.

use crate::object::{Path, Type};

/// What one resource, or one instance of a multiple resource, holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// UTF-8 text.
    String(String),
    /// Signed integer.
    Integer(i64),
    /// Unsigned integer.
    Unsigned(u64),
    /// Floating point number.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// Bytes.
    Opaque(Vec<u8>),
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    Time(i64),
    /// A link to an object instance.
    ObjectLink(ObjectLink),
    /// Links in CoRE link format.
    CoreLink(String),
}

/// Object id and instance id; both 65535 for a link to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectLink {
    /// Object id.
    pub object: u16,
    /// Object instance id.
    pub instance: u16,
}

impl Value {
    /// The type that a resource with this value has.
    pub const fn kind(&self) -> Type {
        match self {
            Self::String(_) => Type::String,
            Self::Integer(_) => Type::Integer,
            Self::Unsigned(_) => Type::Unsigned,
            Self::Float(_) => Type::Float,
            Self::Boolean(_) => Type::Boolean,
            Self::Opaque(_) => Type::Opaque,
            Self::Time(_) => Type::Time,
            Self::ObjectLink(_) => Type::ObjectLink,
            Self::CoreLink(_) => Type::CoreLink,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number of an integer of any kind.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(number) | Self::Time(number) => Some(*number),
            Self::Unsigned(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The number of any numeric value, as conditions on numbers compare it.
    #[expect(clippy::cast_precision_loss, reason = "conditions compare in floating point by specification")]
    pub const fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(number) | Self::Time(number) => Some(*number as f64),
            Self::Unsigned(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Boolean(truth)
    }
}

/// A value and the resource or resource instance that holds it. Every format reads and writes lists of entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// A resource, or an instance of a multiple resource.
    pub path: Path,
    /// What it holds.
    pub value: Value,
    /// When it was measured, in seconds: since 1970 from 2^28 on, relative to now below (RFC 8428 section 4.5.3).
    /// Only SenML carries it.
    pub time: Option<f64>,
}

impl Entry {
    /// An entry without a time.
    pub fn new(path: Path, value: impl Into<Value>) -> Self {
        Self { path, value: value.into(), time: None }
    }
}
