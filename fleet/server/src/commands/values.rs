//! Values of resources as text, typed, so that neither a client nor a terminal loses a digit. Never looks at a device.

use fleet_api::{ResourceType, ResourceValue};
use protocol_lwm2m::{
    formats::{Entry, Value, text},
    object::{Path, Type, resource_type},
};

/// The type of the definition.
pub(crate) const fn wire_type(kind: ResourceType) -> Type {
    match kind {
        ResourceType::String => Type::String,
        ResourceType::Integer => Type::Integer,
        ResourceType::Unsigned => Type::Unsigned,
        ResourceType::Float => Type::Float,
        ResourceType::Boolean => Type::Boolean,
        ResourceType::Opaque => Type::Opaque,
        ResourceType::Time => Type::Time,
        ResourceType::ObjectLink => Type::ObjectLink,
        ResourceType::CoreLink => Type::CoreLink,
    }
}

/// The type as the API shows it; nothing for what holds nothing.
const fn shown_type(kind: Type) -> Option<ResourceType> {
    Some(match kind {
        Type::None => return None,
        Type::String => ResourceType::String,
        Type::Integer => ResourceType::Integer,
        Type::Unsigned => ResourceType::Unsigned,
        Type::Float => ResourceType::Float,
        Type::Boolean => ResourceType::Boolean,
        Type::Opaque => ResourceType::Opaque,
        Type::Time => ResourceType::Time,
        Type::ObjectLink => ResourceType::ObjectLink,
        Type::CoreLink => ResourceType::CoreLink,
    })
}

/// The type that a value for this path has: the one that the definition says, otherwise the one that the caller says.
pub(crate) fn type_of(path: &Path, said: Option<ResourceType>) -> Result<ResourceType, String> {
    match (resource_type(path).and_then(shown_type), said) {
        (Some(known), Some(said)) if known != said => {
            Err(format!("`{path}` is of type {}, not {}", known.as_str(), said.as_str()))
        }
        (Some(known), _) => Ok(known),
        (None, Some(said)) => Ok(said),
        (None, None) => Err(format!("the service does not know `{path}`: say of which type the value is")),
    }
}

/// Reads the text of a value of this type.
pub(crate) fn parse(kind: ResourceType, value: &str) -> Result<Value, String> {
    let plain = match (kind, value) {
        // LwM2M writes a truth as a digit.
        (ResourceType::Boolean, "true") => "1",
        (ResourceType::Boolean, "false") => "0",
        (ResourceType::Boolean, _) => "",
        (_, value) => value,
    };
    text::parse(wire_type(kind), plain).ok_or_else(|| {
        let form = match kind {
            ResourceType::String | ResourceType::CoreLink => "a text",
            ResourceType::Integer => "a whole number of up to 64 bits",
            ResourceType::Unsigned => "a whole number from 0 of up to 64 bits",
            ResourceType::Float => "a finite number",
            ResourceType::Boolean => "`true` or `false`",
            ResourceType::Opaque => "Base64 with padding",
            ResourceType::Time => "seconds since 1970, as a whole number",
            ResourceType::ObjectLink => "an object and an instance, as in `3:0`",
        };
        format!("a value of type {} is {form}", kind.as_str())
    })
}

/// What a device says, as the API shows it.
pub(crate) fn shown(entries: &[Entry]) -> Vec<ResourceValue> {
    entries
        .iter()
        .filter_map(|entry| {
            let value = match &entry.value {
                Value::Boolean(truth) => truth.to_string(),
                value => text::write(value),
            };
            Some(ResourceValue { path: entry.path.to_string(), kind: shown_type(entry.value.kind())?, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_is_no_value_of_its_type_is_refused_with_the_form() {
        for (kind, text) in [
            (ResourceType::Integer, "1.5"),
            (ResourceType::Unsigned, "-1"),
            (ResourceType::Float, "inf"),
            (ResourceType::Boolean, "1"),
            (ResourceType::Opaque, "="),
            (ResourceType::Time, "now"),
            (ResourceType::ObjectLink, "3"),
        ] {
            let said = parse(kind, text).unwrap_err();
            assert!(said.starts_with(&format!("a value of type {} is ", kind.as_str())), "{said}");
        }
        assert_eq!(parse(ResourceType::Boolean, "true"), Ok(Value::Boolean(true)));
    }

    #[test]
    fn the_definition_decides_of_which_type_a_value_is() {
        let known = "/1/0/2".parse().unwrap();
        assert_eq!(type_of(&known, None), Ok(ResourceType::Integer));
        assert_eq!(type_of(&known, Some(ResourceType::String)).unwrap_err(), "`/1/0/2` is of type integer, not string");
        let foreign = "/3303/0/5601".parse().unwrap();
        assert!(type_of(&foreign, None).is_err());
        assert_eq!(type_of(&foreign, Some(ResourceType::Float)), Ok(ResourceType::Float));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same_value(integer: i64, truth: bool, bytes: Vec<u8>, text in "\\PC{0,40}") {
            let path = Path::resource(3303, 0, 1);
            for value in [Value::Integer(integer), Value::Boolean(truth), Value::Opaque(bytes), Value::String(text)] {
                let shown = shown(&[Entry::new(path, value.clone())]).pop().unwrap();
                prop_assert_eq!(parse(shown.kind, &shown.value), Ok(value));
            }
        }
    }
}
