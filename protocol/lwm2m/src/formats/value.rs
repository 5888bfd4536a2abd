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

#[cfg(test)]
pub(crate) mod strategy {
    use proptest::prelude::*;

    use super::*;

    /// Any value that every format can carry.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            ".{0,40}".prop_map(Value::String),
            any::<i64>().prop_map(Value::Integer),
            any::<u64>().prop_map(Value::Unsigned),
            prop_oneof![any::<f32>().prop_map(f64::from), any::<f64>()]
                .prop_filter("finite", |number| number.is_finite())
                .prop_map(Value::Float),
            any::<bool>().prop_map(Value::Boolean),
            proptest::collection::vec(any::<u8>(), 0..400).prop_map(Value::Opaque),
            any::<i64>().prop_map(Value::Time),
            any::<(u16, u16)>().prop_map(|(object, instance)| Value::ObjectLink(ObjectLink { object, instance })),
            ".{0,40}".prop_map(Value::CoreLink),
        ]
    }

    /// A value that a resource of this type can hold.
    pub(crate) fn value_of(kind: Type) -> BoxedStrategy<Value> {
        any_value().prop_filter("type", move |value| value.kind() == kind).boxed()
    }

    /// Entries below `/3/0` and `/26241/0`, of the right types, one a path, in the order of the paths.
    pub(crate) fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
        let object = prop_oneof![Just(3_u16), Just(5), Just(9)];
        let one = object.prop_flat_map(|object| {
            let resources = crate::object::definition(object).unwrap().resources;
            let usable: Vec<_> = resources.iter().filter(|resource| resource.kind != Type::None).collect();
            (0..usable.len(), 0..3_u16, any::<u16>()).prop_flat_map(move |(at, instance, within)| {
                let resource = usable[at];
                let path = match resource.multiple {
                    true => Path::resource_instance(object, instance, resource.id, within % 1000),
                    false => Path::resource(object, instance, resource.id),
                };
                let kind = resource.kind;
                (Just(path), simple_value(kind))
            })
        });
        proptest::collection::vec(one, 0..12).prop_map(|list| {
            let sorted: std::collections::BTreeMap<_, _> = list.into_iter().collect();
            sorted.into_iter().map(|(path, value)| Entry { path, value, time: None }).collect()
        })
    }

    /// As [`value_of`], without throwing any away.
    fn simple_value(kind: Type) -> BoxedStrategy<Value> {
        match kind {
            Type::String => ".{0,40}".prop_map(Value::String).boxed(),
            Type::Integer => any::<i64>().prop_map(Value::Integer).boxed(),
            Type::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
            Type::Time => any::<i64>().prop_map(Value::Time).boxed(),
            Type::Opaque => proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Opaque).boxed(),
            other => value_of(other),
        }
    }
}
