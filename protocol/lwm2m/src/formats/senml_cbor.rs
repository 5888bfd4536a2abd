//! SenML in CBOR (RFC 8428 section 6) with the names and links of LwM2M 1.1 (section 7.4).

use minicbor::{
    Decoder, Encoder,
    data::{Int, Type as Cbor},
};

use super::{
    Entry, FormatError, Value,
    senml::{Datum, Raw, Record, Resolver, entry},
    tlv::single,
};
use crate::{coap::ContentFormat, object::Path};

const FORMAT: ContentFormat = ContentFormat::SENML_CBOR;

/// Reads what lies at or below `base`.
pub fn decode(base: &Path, bytes: &[u8]) -> Result<Vec<Entry>, FormatError> {
    records(bytes)?.into_iter().map(|record| entry(base, record, FORMAT)).collect()
}

/// Reads the records of a pack, whatever their names mean.
pub fn records(bytes: &[u8]) -> Result<Vec<Record>, FormatError> {
    let mut decoder = Decoder::new(bytes);
    let mut resolver = Resolver::default();
    let mut records = Vec::new();
    // A claimed length is never trusted with memory: each record takes bytes, and those run out.
    let mut left = decoder.array().map_err(broken)?;
    while more(&mut decoder, &mut left)? {
        let raw = raw(&mut decoder)?;
        records.push(resolver.resolve(raw).map_err(malformed)?);
    }
    if decoder.position() == bytes.len() { Ok(records) } else { Err(malformed("bytes follow the pack")) }
}

/// Counts down a definite length, or looks for the break of an indefinite one.
fn more(decoder: &mut Decoder<'_>, left: &mut Option<u64>) -> Result<bool, FormatError> {
    if let Some(count) = left {
        let any = *count > 0;
        *count = count.saturating_sub(1);
        return Ok(any);
    }
    if decoder.datatype().map_err(broken)? != Cbor::Break {
        return Ok(true);
    }
    decoder.skip().map_err(broken)?;
    Ok(false)
}

fn raw(decoder: &mut Decoder<'_>) -> Result<Raw, FormatError> {
    let mut raw = Raw::default();
    let mut left = decoder.map().map_err(broken)?;
    while more(decoder, &mut left)? {
        match decoder.datatype().map_err(broken)? {
            Cbor::String => named_field(decoder, &mut raw)?,
            _ => numbered_field(decoder, &mut raw)?,
        }
    }
    Ok(raw)
}

/// Fields with a number: RFC 8428, table 4.
fn numbered_field(decoder: &mut Decoder<'_>, raw: &mut Raw) -> Result<(), FormatError> {
    match decoder.i64().map_err(broken)? {
        -1 => raw.version = Some(decoder.u64().map_err(broken)?),
        -2 => raw.base_name = Some(text(decoder)?),
        -3 => raw.base_time = Some(time(decoder)?),
        -5 => raw.base_value = Some(time(decoder)?),
        0 => raw.name = Some(text(decoder)?),
        2 => set(raw, number(decoder)?)?,
        3 => set(raw, Datum::Text(text(decoder)?))?,
        4 => set(raw, Datum::Boolean(decoder.bool().map_err(broken)?))?,
        5 => {
            number(decoder)?;
            raw.sum = true;
        }
        6 => raw.time = Some(time(decoder)?),
        8 => set(raw, Datum::Data(decoder.bytes().map_err(broken)?.to_vec()))?,
        // Units, base sum, update time, and what later standards add, mean nothing to LwM2M.
        _ => decoder.skip().map_err(broken)?,
    }
    Ok(())
}

fn named_field(decoder: &mut Decoder<'_>, raw: &mut Raw) -> Result<(), FormatError> {
    match decoder.str().map_err(broken)? {
        "vlo" => set(raw, Datum::Link(text(decoder)?)),
        // Must be understood or the pack refused (RFC 8428 section 4.4).
        name if name.ends_with('_') => Err(malformed("a mandatory field is not known")),
        _ => decoder.skip().map_err(broken),
    }
}

fn set(raw: &mut Raw, value: Datum) -> Result<(), FormatError> {
    match raw.value.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed("a record has two values")),
    }
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, FormatError> {
    Ok(decoder.str().map_err(broken)?.to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "times are floating point numbers by specification")]
fn time(decoder: &mut Decoder<'_>) -> Result<f64, FormatError> {
    match number(decoder)? {
        Datum::Integer(number) => Ok(number as f64),
        Datum::Float(number) if number.is_finite() => Ok(number),
        _ => Err(malformed("a number is not finite")),
    }
}

/// An integer, a floating point number of any width, or a decimal fraction (RFC 8949 section 3.4.4).
fn number(decoder: &mut Decoder<'_>) -> Result<Datum, FormatError> {
    match decoder.datatype().map_err(broken)? {
        Cbor::F16 | Cbor::F32 | Cbor::F64 => Ok(Datum::Float(decoder.f64().map_err(broken)?)),
        Cbor::Tag => decimal_fraction(decoder),
        _ => Ok(Datum::Integer(i128::from(decoder.int().map_err(broken)?))),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a decimal fraction becomes the nearest floating point number")]
fn decimal_fraction(decoder: &mut Decoder<'_>) -> Result<Datum, FormatError> {
    if decoder.tag().map_err(broken)?.as_u64() != 4 || decoder.array().map_err(broken)? != Some(2) {
        return Err(malformed("a number has a tag that is not known"));
    }
    let exponent = decoder.i32().map_err(broken)?;
    let mantissa = i128::from(decoder.int().map_err(broken)?);
    Ok(Datum::Float(mantissa as f64 * 10_f64.powi(exponent)))
}

/// Writes entries at or below `base`.
pub fn encode(base: &Path, entries: &[Entry]) -> Result<Vec<u8>, FormatError> {
    // The base name ends with a slash, so it is never longer than the instance and names stay short.
    let above = base.upper(2);
    let base_name = if above == Path::ROOT { "/".to_owned() } else { format!("{above}/") };
    let mut out = Encoder::new(Vec::with_capacity(16 + 16 * entries.len()));
    let length = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    out.array(length).map_err(unwritable)?;
    for (at, entry) in entries.iter().enumerate() {
        let outside = || FormatError::Outside { outer: *base, inner: entry.path.to_string() };
        if !base.contains(&entry.path) || entry.path.ids().len() < 3 {
            return Err(outside());
        }
        let path = entry.path.to_string();
        let name = path.strip_prefix(&base_name).ok_or_else(outside)?;
        let first = (at == 0).then_some(base_name.as_str());
        write_record(&mut out, (first, name), entry).map_err(unwritable)?;
    }
    Ok(out.into_writer())
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write_record(out: &mut Encoder<Vec<u8>>, names: (Option<&str>, &str), entry: &Entry) -> Written {
    let (base_name, name) = names;
    out.map(2 + u64::from(base_name.is_some()) + u64::from(entry.time.is_some()))?;
    if let Some(base_name) = base_name {
        out.i8(-2)?.str(base_name)?;
    }
    out.u8(0)?.str(name)?;
    write_value(out, &entry.value)?;
    if let Some(time) = entry.time {
        out.u8(6)?;
        write_float(out, time)?;
    }
    Ok(())
}

fn write_value(out: &mut Encoder<Vec<u8>>, value: &Value) -> Written {
    match value {
        Value::String(text) | Value::CoreLink(text) => out.u8(3)?.str(text)?,
        Value::Integer(number) | Value::Time(number) => out.u8(2)?.int(Int::from(*number))?,
        Value::Unsigned(number) => out.u8(2)?.u64(*number)?,
        Value::Float(number) => {
            out.u8(2)?;
            return write_float(out, *number);
        }
        Value::Boolean(truth) => out.u8(4)?.bool(*truth)?,
        Value::Opaque(bytes) => out.u8(8)?.bytes(bytes)?,
        Value::ObjectLink(link) => out.str("vlo")?.str(&link.to_string())?,
    };
    Ok(())
}

fn write_float(out: &mut Encoder<Vec<u8>>, number: f64) -> Written {
    match single(number) {
        Some(single) => out.f32(single)?,
        None => out.f64(number)?,
    };
    Ok(())
}

const fn malformed(what: &'static str) -> FormatError {
    FormatError::Malformed { format: FORMAT, what }
}

fn broken(_: minicbor::decode::Error) -> FormatError {
    malformed("it is not the CBOR of a SenML pack")
}

fn unwritable(_: minicbor::encode::Error<std::convert::Infallible>) -> FormatError {
    malformed("it cannot be written")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{formats::value::strategy::any_entries, object::ids};

    #[test]
    fn the_release_object_is_written_in_one_record_a_resource() {
        let entries = [
            Entry::new(Path::resource(ids::RELEASE, 0, 0), "releases/1.1.0.json"),
            Entry::new(Path::resource_instance(ids::RELEASE, 0, 12, 1), "os 1.1.0"),
            Entry::new(Path::resource(ids::RELEASE, 0, 13), 7),
        ];
        let bytes = encode(&Path::instance(ids::RELEASE, 0), &entries).unwrap();
        let expected = b"\x83\xa3\x21\x69/26241/0/\x00\x610\x03\x73releases/1.1.0.json\xa2\x00\x6412/1\x03\x68os 1.1.0\xa2\x00\x6213\x02\x07";
        assert_eq!(bytes, expected);
        assert_eq!(decode(&Path::ROOT, &bytes).as_deref(), Ok(&entries[..]));
    }

    /// RFC 8428 section 6, the multiple-datapoint example of section 5.1.2 in CBOR.
    #[test]
    fn the_example_of_the_standard_is_read() {
        let head = b"\x87\xa7\x21\x78\x1burn:dev:ow:10e2073a0108006:\x22\xfb\x41\xd3\x03\xa1\x5b\x00\x10\x62\x23\x61\x41\x20\x05\x00\x67voltage\x01\x61\x56\x02\xfb\x40\x5e\x06\x66\x66\x66\x66\x66";
        let mut bytes = head.to_vec();
        for (time, value) in [(0x24_u8, 1.2_f64), (0x23, 1.3), (0x22, 1.4), (0x21, 1.5), (0x20, 1.6)] {
            bytes.extend_from_slice(b"\xa3\x00\x67current\x06");
            bytes.push(time);
            bytes.extend_from_slice(b"\x02\xfb");
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes.extend_from_slice(b"\xa3\x00\x67current\x06\x00\x02\xfb\x3f\xfb\x33\x33\x33\x33\x33\x33");
        let records = records(&bytes).unwrap();
        assert_eq!(records.len(), 7);
        assert_eq!(records[0].name, "urn:dev:ow:10e2073a0108006:voltage");
        assert_eq!((records[0].time, &records[0].value), (Some(1_276_020_076.001), &Some(Datum::Float(120.1))));
        assert_eq!((records[1].time, &records[1].value), (Some(1_276_020_071.001), &Some(Datum::Float(1.2))));
        assert_eq!((records[6].time, &records[6].value), (Some(1_276_020_076.001), &Some(Datum::Float(1.7))));
    }

    #[test]
    fn object_links_times_and_decimal_fractions_are_read() {
        let bytes = b"\x82\xa3\x21\x66/3/0/2\x632/0\x00\x60\x63vlo\x63"; // cut on purpose
        assert!(decode(&Path::ROOT, bytes).is_err());
        let link = b"\x81\xa3\x21\x65/3/0/\x00\x6422/0\x63vlo\x6466:0";
        let link = decode(&Path::instance(3, 0), link).unwrap();
        assert_eq!(link[0].value, Value::ObjectLink(crate::formats::ObjectLink { object: 66, instance: 0 }));
        let decimal = decode(&Path::ROOT, b"\x81\xa3\x00\x69/3303/0/1\x02\xc4\x82\x21\x19\x09\x29\x06\x05").unwrap();
        assert_eq!((&decimal[0].value, decimal[0].time), (&Value::Float(23.45), Some(5.0)));
    }

    #[test]
    fn packs_that_break_a_rule_are_refused() {
        for bad in [
            &b"\x81\xa2\x00\x66/3/0/0\x02\x01"[..],        // integer for a string
            b"\x81\xa1\x00\x66/3/0/0",                     // no value
            b"\x81\xa3\x00\x66/3/0/0\x03\x61a\x02\x01",    // two values
            b"\x81\xa2\x00\x64/3/0\x03\x61a",              // not a resource
            b"\x81\xa2\x00\x66/5/0/1\x03\x61a",            // outside
            b"\x81\xa3\x20\x0b\x00\x66/3/0/0\x03\x61a",    // version 11
            b"\x81\xa3\x00\x66/3/0/0\x03\x61a\x63aa_\x01", // mandatory extension
            b"\x81\xa2\x00\x66/3/0/0\x03\x61a\x00",        // bytes behind
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\xa0",   // a length that is a lie
            b"\xa0",
            b"",
        ] {
            assert!(decode(&Path::instance(3, 0), bad).is_err(), "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn entries_read_back_as_written(entries in any_entries(), time in proptest::option::of(-1.0e9..1.0e9_f64)) {
            let entries: Vec<_> = entries.into_iter().map(|entry| Entry { time, ..entry }).collect();
            let read = decode(&Path::ROOT, &encode(&Path::ROOT, &entries).unwrap()).unwrap();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(records) = records(&bytes) {
                prop_assert!(records.len() <= bytes.len());
            }
        }

        #[test]
        fn a_damaged_pack_is_read_or_refused(entries in any_entries(), at: usize, with: u8) {
            let mut bytes = encode(&Path::ROOT, &entries).unwrap();
            let len = bytes.len();
            bytes[at % len] = with;
            if let Ok(read) = decode(&Path::ROOT, &bytes) {
                prop_assert!(read.len() <= len);
            }
        }
    }
}
