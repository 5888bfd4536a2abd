//! SenML records and how base fields resolve (RFC 8428 section 4.6), apart from how they are written; and what LwM2M makes of them.

use super::{Entry, FormatError, ObjectLink, Value};
use crate::{
    coap::ContentFormat,
    object::{Path, Type, definition::resource_type},
};

/// The highest version of SenML that RFC 8428 defines.
const VERSION: u64 = 10;
/// No name in LwM2M is longer than 24 bytes; the limit keeps a long base name from being repeated a thousand times.
const LONGEST_NAME: usize = 128;

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// A number without fraction; wide enough for every integer of CBOR.
    Integer(i128),
    /// A number with fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// True or false.
    Boolean(bool),
    /// Bytes.
    Data(Vec<u8>),
    /// The object link that LwM2M adds (`vlo`).
    Link(String),
}

/// A record as it is written, before the base fields are applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raw {
    /// `bver`
    pub version: Option<u64>,
    /// `bn`
    pub base_name: Option<String>,
    /// `bt`
    pub base_time: Option<f64>,
    /// `bv`
    pub base_value: Option<f64>,
    /// `n`
    pub name: Option<String>,
    /// `t`
    pub time: Option<f64>,
    /// `v`, `vs`, `vb`, `vd` or `vlo`
    pub value: Option<Datum>,
    /// Whether there is a sum (`s`), which may stand instead of a value.
    pub sum: bool,
}

/// A record that stands for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Base name and name.
    pub name: String,
    /// Base time and time; `None` if neither was given.
    pub time: Option<f64>,
    /// The value; `None` if there is only a sum.
    pub value: Option<Datum>,
}

/// Applies base fields from one record to the next.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    name: String,
    time: Option<f64>,
    value: Option<f64>,
}

impl Resolver {
    /// Takes the next record of a pack; the error is the rule that it breaks.
    pub fn resolve(&mut self, raw: Raw) -> Result<Record, &'static str> {
        if raw.version.is_some_and(|version| version > VERSION) {
            return Err("its version is not known");
        }
        if let Some(name) = raw.base_name {
            self.name = name;
        }
        self.time = raw.base_time.or(self.time);
        self.value = raw.base_value.or(self.value);
        let name = raw.name.unwrap_or_default();
        if self.name.len() + name.len() > LONGEST_NAME {
            return Err("a name is too long");
        }
        if self.name.is_empty() && name.is_empty() {
            return Err("a record has no name");
        }
        if raw.value.is_none() && !raw.sum {
            return Err("a record has no value");
        }
        let time = match (self.time, raw.time) {
            (None, None) => None,
            (base, time) => Some(base.unwrap_or(0.0) + time.unwrap_or(0.0)),
        };
        let value = raw.value.map(|value| self.value.map_or(value.clone(), |base| add(base, value)));
        Ok(Record { name: self.name.clone() + &name, time, value })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a base value makes every value a floating point number")]
fn add(base: f64, value: Datum) -> Datum {
    match value {
        Datum::Integer(number) => Datum::Float(base + number as f64),
        Datum::Float(number) => Datum::Float(base + number),
        other => other,
    }
}

/// The entry that a record of LwM2M stands for; it must lie at or below `base`.
pub fn entry(base: &Path, record: Record, format: ContentFormat) -> Result<Entry, FormatError> {
    let outside = || FormatError::Outside { outer: *base, inner: record.name.escape_default().take(64).collect() };
    let path: Path = record.name.parse().map_err(|_| outside())?;
    if !base.contains(&path) || path.ids().len() < 3 {
        return Err(outside());
    }
    let datum = record.value.ok_or(FormatError::Malformed { format, what: "a record has no value" })?;
    let known = resource_type(&path);
    let value = match known {
        Some(wanted) => typed(wanted, datum).ok_or(FormatError::WrongType { path, wanted })?,
        None => guessed(datum).ok_or(FormatError::WrongType { path, wanted: Type::None })?,
    };
    Ok(Entry { path, value, time: record.time })
}

fn typed(wanted: Type, datum: Datum) -> Option<Value> {
    Some(match (wanted, datum) {
        (Type::String, Datum::Text(text)) => Value::String(text),
        (Type::CoreLink, Datum::Text(text)) => Value::CoreLink(text),
        (Type::Integer, number) => Value::Integer(i64::try_from(whole(&number)?).ok()?),
        (Type::Unsigned, number) => Value::Unsigned(u64::try_from(whole(&number)?).ok()?),
        (Type::Time, number) => Value::Time(i64::try_from(whole(&number)?).ok()?),
        (Type::Float, number) => Value::Float(float(&number)?),
        (Type::Boolean, Datum::Boolean(truth)) => Value::Boolean(truth),
        (Type::Opaque, Datum::Data(bytes)) => Value::Opaque(bytes),
        (Type::ObjectLink, Datum::Link(text)) => Value::ObjectLink(ObjectLink::parse(&text)?),
        _ => return None,
    })
}

/// What a value of an object without definition most likely is.
fn guessed(datum: Datum) -> Option<Value> {
    Some(match datum {
        Datum::Integer(number) => match i64::try_from(number) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Unsigned(u64::try_from(number).ok()?),
        },
        Datum::Float(number) => Value::Float(number),
        Datum::Text(text) => Value::String(text),
        Datum::Boolean(truth) => Value::Boolean(truth),
        Datum::Data(bytes) => Value::Opaque(bytes),
        Datum::Link(text) => Value::ObjectLink(ObjectLink::parse(&text)?),
    })
}

/// An integer, also if it was written as a floating point number without fraction.
#[expect(clippy::cast_possible_truncation, reason = "bounded by 2^53, where every integer is exact")]
fn whole(datum: &Datum) -> Option<i128> {
    match datum {
        Datum::Integer(number) => Some(*number),
        Datum::Float(number) if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 => {
            Some(*number as i128)
        }
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a resource of floating point type was sent an integer")]
fn float(datum: &Datum) -> Option<f64> {
    match datum {
        Datum::Integer(number) => Some(*number as f64),
        Datum::Float(number) if number.is_finite() => Some(*number),
        _ => None,
    }
}

/// The datum that stands for a value.
pub fn datum(value: &Value) -> Datum {
    match value {
        Value::String(text) | Value::CoreLink(text) => Datum::Text(text.clone()),
        Value::Integer(number) | Value::Time(number) => Datum::Integer(i128::from(*number)),
        Value::Unsigned(number) => Datum::Integer(i128::from(*number)),
        Value::Float(number) => Datum::Float(*number),
        Value::Boolean(truth) => Datum::Boolean(*truth),
        Value::Opaque(bytes) => Datum::Data(bytes.clone()),
        Value::ObjectLink(link) => Datum::Link(link.to_string()),
    }
}
