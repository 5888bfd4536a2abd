//! Plain text and opaque: one value without its path (OMA LwM2M 1.1 section 7.4).

use super::{ObjectLink, Value};
use crate::object::Type;

/// Reads the text of a value of this type; opaque values are Base64 without line breaks.
pub fn parse(kind: Type, text: &str) -> Option<Value> {
    Some(match kind {
        Type::String => Value::String(text.to_owned()),
        Type::Integer => Value::Integer(text.parse().ok()?),
        Type::Unsigned => Value::Unsigned(text.parse().ok()?),
        Type::Float => Value::Float(text.parse().ok().filter(|number: &f64| number.is_finite())?),
        Type::Boolean => Value::Boolean(match text {
            "0" => false,
            "1" => true,
            _ => return None,
        }),
        Type::Opaque => Value::Opaque(base64_decode(text)?),
        Type::Time => Value::Time(text.parse().ok()?),
        Type::ObjectLink => Value::ObjectLink(ObjectLink::parse(text)?),
        Type::CoreLink => Value::CoreLink(text.to_owned()),
        Type::None => return None,
    })
}

/// Writes a value as text.
pub fn write(value: &Value) -> String {
    match value {
        Value::String(text) | Value::CoreLink(text) => text.clone(),
        Value::Integer(number) | Value::Time(number) => number.to_string(),
        Value::Unsigned(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => if *truth { "1" } else { "0" }.to_owned(),
        Value::Opaque(bytes) => base64_encode(bytes),
        Value::ObjectLink(link) => link.to_string(),
    }
}

impl ObjectLink {
    /// Reads `object:instance`.
    pub fn parse(text: &str) -> Option<Self> {
        let (object, instance) = text.split_once(':')?;
        let id = |text: &str| if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
        Some(Self { object: id(object)?, instance: id(instance)? })
    }
}

impl std::fmt::Display for ObjectLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.object, self.instance)
    }
}

fn base64_encode(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::value::strategy::any_value;

    #[test]
    fn text_that_is_not_of_the_type_is_refused() {
        for (kind, text) in [
            (Type::Integer, "1.5"),
            (Type::Integer, ""),
            (Type::Unsigned, "-1"),
            (Type::Float, "NaN"),
            (Type::Boolean, "true"),
            (Type::Opaque, "a"),
            (Type::ObjectLink, "3"),
            (Type::ObjectLink, "+3:0"),
            (Type::ObjectLink, "3:65536"),
            (Type::None, ""),
        ] {
            assert_eq!(parse(kind, text), None, "{kind:?} {text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_value_reads_back_as_written(value in any_value()) {
            prop_assert_eq!(parse(value.kind(), &write(&value)), Some(value));
        }
    }
}
