//! OMA TLV (LwM2M 1.1 section 7.4.3): type, length, value, nested by instance and resource. The types of values come from the definitions.

use super::{Entry, FormatError, ObjectLink, Value};
use crate::{
    coap::ContentFormat,
    object::{Path, Type, definition::resource_type},
};

const LONGEST: usize = (1 << 24) - 1;

/// The two top bits of the type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ObjectInstance,
    ResourceInstance,
    MultipleResource,
    Resource,
}

struct Item<'a> {
    kind: Kind,
    id: u16,
    value: &'a [u8],
}

/// Reads what lies at or below `base`. An instance without resources and a multiple resource without instances leave no entry.
pub fn decode(base: &Path, bytes: &[u8]) -> Result<Vec<Entry>, FormatError> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while let Some(item) = next_item(&mut rest)? {
        decode_item(base, item, &mut entries)?;
    }
    Ok(entries)
}

/// An item is either the child of `at` or `at` itself. Kinds nest strictly, so this calls itself at most three deep.
fn decode_item(at: &Path, item: Item<'_>, entries: &mut Vec<Entry>) -> Result<(), FormatError> {
    let level = match item.kind {
        Kind::ObjectInstance => 2,
        Kind::MultipleResource | Kind::Resource => 3,
        Kind::ResourceInstance => 4,
    };
    let depth = at.ids().len();
    let path = match at.ids().last() {
        Some(id) if depth == level && *id == item.id => Some(*at),
        Some(_) if depth + 1 == level && item.id != u16::MAX => at.child(item.id),
        _ => None,
    };
    let path = path.ok_or_else(|| FormatError::Outside { outer: *at, inner: format!("id {}", item.id) })?;
    match item.kind {
        Kind::ObjectInstance | Kind::MultipleResource => {
            let mut rest = item.value;
            while let Some(inner) = next_item(&mut rest)? {
                let nests = match item.kind {
                    Kind::ObjectInstance => matches!(inner.kind, Kind::Resource | Kind::MultipleResource),
                    _ => inner.kind == Kind::ResourceInstance,
                };
                if !nests {
                    return Err(malformed("an item lies inside of one that cannot hold it"));
                }
                decode_item(&path, inner, entries)?;
            }
            Ok(())
        }
        Kind::Resource | Kind::ResourceInstance => {
            // What has no definition stays bytes.
            let wanted = resource_type(&path).unwrap_or(Type::Opaque);
            let value = value(wanted, item.value).ok_or(FormatError::WrongType { path, wanted })?;
            entries.push(Entry { path, value, time: None });
            Ok(())
        }
    }
}

fn next_item<'a>(rest: &mut &'a [u8]) -> Result<Option<Item<'a>>, FormatError> {
    let Some((first, mut after)) = rest.split_first() else { return Ok(None) };
    let kind = match first >> 6 {
        0 => Kind::ObjectInstance,
        1 => Kind::ResourceInstance,
        2 => Kind::MultipleResource,
        _ => Kind::Resource,
    };
    let mut number = |bytes: usize| -> Result<usize, FormatError> {
        let (head, tail) = after.split_at_checked(bytes).ok_or(malformed("it ends inside of a header"))?;
        after = tail;
        Ok(head.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)))
    };
    let id = number(if first & 0x20 == 0 { 1 } else { 2 })?;
    let len = match (first >> 3) & 3 {
        0 => usize::from(first & 7),
        bytes => number(usize::from(bytes))?,
    };
    let (value, tail) = after.split_at_checked(len).ok_or(malformed("it ends inside of a value"))?;
    *rest = tail;
    Ok(Some(Item { kind, id: u16::try_from(id).unwrap_or(u16::MAX), value }))
}

/// The value of a resource from its bytes (LwM2M 1.1 appendix C).
fn value(kind: Type, bytes: &[u8]) -> Option<Value> {
    Some(match kind {
        Type::String => Value::String(std::str::from_utf8(bytes).ok()?.to_owned()),
        Type::CoreLink => Value::CoreLink(std::str::from_utf8(bytes).ok()?.to_owned()),
        Type::Integer => Value::Integer(integer(bytes)?),
        Type::Time => Value::Time(integer(bytes)?),
        Type::Unsigned => Value::Unsigned(match *bytes {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_be_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_be_bytes([a, b, c, d])),
            _ => u64::from_be_bytes(bytes.try_into().ok()?),
        }),
        Type::Float => Value::Float(match *bytes {
            [a, b, c, d] => f64::from(f32::from_be_bytes([a, b, c, d])),
            _ => f64::from_be_bytes(bytes.try_into().ok()?),
        }),
        Type::Boolean => Value::Boolean(match bytes {
            [0] => false,
            [1] => true,
            _ => return None,
        }),
        Type::Opaque => Value::Opaque(bytes.to_vec()),
        Type::ObjectLink => {
            let &[a, b, c, d] = bytes else { return None };
            Value::ObjectLink(ObjectLink { object: u16::from_be_bytes([a, b]), instance: u16::from_be_bytes([c, d]) })
        }
        Type::None => return None,
    })
}

fn integer(bytes: &[u8]) -> Option<i64> {
    Some(match *bytes {
        [a] => i64::from(i8::from_be_bytes([a])),
        [a, b] => i64::from(i16::from_be_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
        _ => i64::from_be_bytes(bytes.try_into().ok()?),
    })
}

/// Writes entries at or below `base`, which names at least an object. They must be in the order of their paths.
pub fn encode(base: &Path, entries: &[Entry]) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::new();
    match base.ids().len() {
        0 => return Err(malformed("it has no form for more than one object")),
        1 => children(1, entries, &mut out)?,
        // A resource is written with its own header, as a child of its instance.
        2 | 3 => children(2, entries, &mut out)?,
        _ => children(3, entries, &mut out)?,
    }
    Ok(out)
}

/// Writes entries as children of what their first `depth` ids name.
fn children(depth: usize, entries: &[Entry], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let is_leaf = |entry: &Entry| entry.path.ids().len() == depth + 1;
    let same = |a: &Entry, b: &Entry| a.path.upper(depth + 1) == b.path.upper(depth + 1) && is_leaf(a) == is_leaf(b);
    for group in entries.chunk_by(same) {
        let Some(entry) = group.first() else { continue };
        let ids = entry.path.ids();
        let kind = match (depth, ids.len()) {
            (1, 3 | 4) => Kind::ObjectInstance,
            (2, 4) => Kind::MultipleResource,
            (2, 3) => Kind::Resource,
            (3, 4) => Kind::ResourceInstance,
            _ => return Err(malformed("an entry is not a resource")),
        };
        match kind {
            Kind::ObjectInstance | Kind::MultipleResource => {
                let mut inner = Vec::new();
                children(depth + 1, group, &mut inner)?;
                header(kind, ids.get(depth).copied().unwrap_or_default(), inner.len(), out)?;
                out.append(&mut inner);
            }
            Kind::Resource | Kind::ResourceInstance => group.iter().try_for_each(|entry| leaf(kind, entry, out))?,
        }
    }
    Ok(())
}

fn leaf(kind: Kind, entry: &Entry, out: &mut Vec<u8>) -> Result<(), FormatError> {
    let id = entry.path.ids().last().copied().unwrap_or_default();
    let mut put = |bytes: &[u8]| {
        header(kind, id, bytes.len(), out)?;
        out.extend_from_slice(bytes);
        Ok(())
    };
    match &entry.value {
        Value::String(text) | Value::CoreLink(text) => put(text.as_bytes()),
        Value::Opaque(bytes) => put(bytes),
        Value::Boolean(truth) => put(&[u8::from(*truth)]),
        Value::Integer(number) | Value::Time(number) => {
            let bytes = number.to_be_bytes();
            let len = if i8::try_from(*number).is_ok() {
                1
            } else if i16::try_from(*number).is_ok() {
                2
            } else if i32::try_from(*number).is_ok() {
                4
            } else {
                8
            };
            put(&bytes[8 - len..])
        }
        Value::Unsigned(number) => {
            let bytes = number.to_be_bytes();
            let len = match number {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            put(&bytes[8 - len..])
        }
        Value::Float(number) => match single(*number) {
            Some(single) => put(&single.to_be_bytes()),
            None => put(&number.to_be_bytes()),
        },
        Value::ObjectLink(link) => {
            let ([a, b], [c, d]) = (link.object.to_be_bytes(), link.instance.to_be_bytes());
            put(&[a, b, c, d])
        }
    }
}

/// The number in 32 bits, if none of it is lost.
#[expect(clippy::cast_possible_truncation, reason = "compared with the original right after")]
pub(super) fn single(number: f64) -> Option<f32> {
    let single = number as f32;
    (f64::from(single).to_bits() == number.to_bits()).then_some(single)
}

fn header(kind: Kind, id: u16, len: usize, out: &mut Vec<u8>) -> Result<(), FormatError> {
    let kind = match kind {
        Kind::ObjectInstance => 0,
        Kind::ResourceInstance => 0x40,
        Kind::MultipleResource => 0x80,
        Kind::Resource => 0xc0,
    };
    let [.., high, low] = id.to_be_bytes();
    let [.., a, b, c] = len.to_be_bytes();
    let (long_id, len_bits) = (
        if high == 0 { 0 } else { 0x20 },
        match len {
            0..=7 => c,
            8..=0xff => 0x08,
            0x100..=0xffff => 0x10,
            0x1_0000..=LONGEST => 0x18,
            _ => return Err(malformed("a value is longer than 16 MiB")),
        },
    );
    out.push(kind | long_id | len_bits);
    out.extend_from_slice(if high == 0 { std::slice::from_ref(&low) } else { &[] });
    if high != 0 {
        out.extend_from_slice(&[high, low]);
    }
    match len {
        0..=7 => {}
        8..=0xff => out.push(c),
        0x100..=0xffff => out.extend_from_slice(&[b, c]),
        _ => out.extend_from_slice(&[a, b, c]),
    }
    Ok(())
}

const fn malformed(what: &'static str) -> FormatError {
    FormatError::Malformed { format: ContentFormat::TLV, what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::value::strategy::any_entries;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// LwM2M 1.1, the example of section 7.4.3: Read of /3/0.
    const DEVICE: &str =
        "c80014 4f70656e204d6f62696c6520416c6c69616e6365 c80116 4c69676874776569676874204d324d20436c69656e74
        c80209 333435303030313233 c303 312e30 8606 410001 410105 880708 42000ed8 42011388 8708 41007d 42010384
        c10964 c10a0f 830b 410000 c40d5182428f c60e 2b30323a3030 c11055";

    fn device() -> Vec<Entry> {
        let at = |resource| Path::resource(3, 0, resource);
        let within = |resource, instance| Path::resource_instance(3, 0, resource, instance);
        vec![
            Entry::new(at(0), "Open Mobile Alliance"),
            Entry::new(at(1), "Lightweight M2M Client"),
            Entry::new(at(2), "345000123"),
            Entry::new(at(3), "1.0"),
            Entry::new(within(6, 0), 1),
            Entry::new(within(6, 1), 5),
            Entry::new(within(7, 0), 3800),
            Entry::new(within(7, 1), 5000),
            Entry::new(within(8, 0), 125),
            Entry::new(within(8, 1), 900),
            Entry::new(at(9), 100),
            Entry::new(at(10), 15),
            Entry::new(within(11, 0), 0),
            Entry::new(at(13), Value::Time(1_367_491_215)),
            Entry::new(at(14), "+02:00"),
            Entry::new(at(16), "U"),
        ]
    }

    #[test]
    fn the_device_of_the_standard_has_these_bytes() {
        let bytes = hex(DEVICE);
        assert_eq!(bytes.len(), 121);
        assert_eq!(encode(&Path::instance(3, 0), &device()), Ok(bytes.clone()));
        assert_eq!(decode(&Path::instance(3, 0), &bytes), Ok(device()));
    }

    #[test]
    fn an_object_is_read_as_its_instances() {
        // LwM2M 1.1, the example of object 2 with two instances; resource 2 has instances with ids of one and two bytes.
        let bytes = hex("08000e c10001 c10100 83024 17f07 c1037f 080212 c10003 c10100 87024 17f07 61013601 c1037f");
        let entries = decode(&Path::object(2), &bytes).unwrap();
        let paths: Vec<_> = entries.iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(
            paths,
            ["/2/0/0", "/2/0/1", "/2/0/2/127", "/2/0/3", "/2/2/0", "/2/2/1", "/2/2/2/127", "/2/2/2/310", "/2/2/3"]
        );
        assert!(entries.iter().all(|entry| matches!(entry.value, Value::Opaque(_))), "object 2 is not defined here");
        assert_eq!(encode(&Path::object(2), &entries), Ok(bytes));
    }

    #[test]
    fn a_resource_is_read_alone_or_inside_of_its_instance() {
        let battery = [Entry::new(Path::resource(3, 0, 9), 100)];
        assert_eq!(encode(&Path::resource(3, 0, 9), &battery), Ok(hex("c10964")));
        assert_eq!(decode(&Path::resource(3, 0, 9), &hex("c10964")).as_deref(), Ok(&battery[..]));
        assert_eq!(decode(&Path::instance(3, 0), &hex("030 0c10964")).as_deref(), Ok(&battery[..]));
        let one = [Entry::new(Path::resource_instance(3, 0, 7, 1), 5000)];
        assert_eq!(encode(&Path::resource_instance(3, 0, 7, 1), &one), Ok(hex("42011388")));
        assert_eq!(decode(&Path::resource_instance(3, 0, 7, 1), &hex("42011388")).as_deref(), Ok(&one[..]));
    }

    #[test]
    fn a_resource_that_is_single_and_multiple_at_once_keeps_both_forms() {
        let path = Path::resource(3, 0, 2);
        let entries =
            [Entry::new(path, "a"), Entry::new(path.child(0).unwrap(), "b"), Entry::new(path.child(1).unwrap(), "c")];
        let bytes = encode(&Path::instance(3, 0), &entries).unwrap();
        assert_eq!(bytes, hex("c10261 8602 410062 410163"));
        assert_eq!(decode(&Path::instance(3, 0), &bytes).as_deref(), Ok(&entries[..]));
    }

    #[test]
    fn what_lies_elsewhere_or_nests_wrongly_is_refused() {
        for (base, bytes) in [
            (Path::resource(3, 0, 9), "c10a64"),
            (Path::instance(3, 0), "0301c10964"),
            (Path::instance(3, 0), "410001"),
            (Path::instance(3, 0), "8306 c10001"),
            (Path::instance(3, 0), "c10d"),
            (Path::instance(3, 0), "c0"),
            (Path::instance(3, 0), "c3096400 00"),
            (Path::instance(9, 0), "c10c02"),
        ] {
            assert!(decode(&base, &hex(bytes)).is_err(), "{base} {bytes}");
        }
    }

    proptest! {
        #[test]
        fn entries_read_back_as_written(entries in any_entries()) {
            for group in entries.chunk_by(|a, b| a.path.upper(1) == b.path.upper(1)) {
                let base = group[0].path.upper(1);
                let read = decode(&base, &encode(&base, group).unwrap()).unwrap();
                prop_assert_eq!(&read[..], group);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), object in 0_u16..10, depth in 1_usize..=4) {
            let base = Path::resource_instance(object, 0, 0, 0).upper(depth);
            if let Ok(entries) = decode(&base, &bytes) {
                prop_assert!(entries.len() <= bytes.len());
            }
        }
    }
}
