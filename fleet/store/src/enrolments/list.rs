//! The enrolment list (`docs/formats/enrolment-list.md`): a head and lines of comma-separated values, each about one factory
//! certificate. Reads one line at a time and nothing else; never touches a file or a database.

use protocol_types::EndpointName;

use crate::{
    AttributeValue, DeviceChange,
    devices::attributes::{MAX_ATTRIBUTES, MAX_TAGS, MAX_VALUE_CHARACTERS, is_tag},
    is_key,
};

/// The longest line in bytes, its end not counted.
pub const MAX_LINE_BYTES: usize = 8192;
/// Most columns of a list.
const MAX_COLUMNS: usize = 128;

/// SHA-256 of a DER certificate.
pub type Fingerprint = [u8; 32];

/// A factory certificate that may join.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedCertificate {
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// The only name under which it may join; `None` for the one in the certificate.
    pub endpoint: Option<EndpointName>,
    /// Tags and attributes that the device gets when it joins.
    pub labels: DeviceChange,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Longer than [`MAX_LINE_BYTES`].
    #[error("the line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not text, or not comma-separated values.
    #[error("the line is not comma-separated values in UTF-8")]
    Malformed,
    /// Other than the head says.
    #[error("the line has {found} fields, the head has {wanted}")]
    Fields {
        /// Fields of the line.
        found: usize,
        /// Columns of the head.
        wanted: usize,
    },
    /// No SHA-256.
    #[error("`{0}` is not the SHA-256 of a certificate")]
    Fingerprint(String),
    /// No endpoint name.
    #[error("`{0}` is not an endpoint name")]
    Endpoint(String),
    /// A tag that breaks the rules, or too many.
    #[error("`{0}` is not a list of tags")]
    Tags(String),
    /// A value that breaks the rules.
    #[error("the value of `{0}` is not one of an attribute")]
    Attribute(String),
    /// The certificate stands on a list under another endpoint name.
    #[error("the certificate is listed for `{0}` already")]
    OtherEndpoint(EndpointName),
}

impl LineFault {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "line_too_long",
            Self::Malformed => "malformed_line",
            Self::Fields { .. } => "wrong_number_of_fields",
            Self::Fingerprint(_) => "invalid_fingerprint",
            Self::Endpoint(_) => "invalid_endpoint",
            Self::Tags(_) => "invalid_tags",
            Self::Attribute(_) => "invalid_attribute",
            Self::OtherEndpoint(_) => "listed_for_another_endpoint",
        }
    }
}

/// What is wrong with the head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// Not a line of comma-separated values of at most so many columns.
    #[error("the first line must name the columns, separated by commas")]
    Malformed,
    /// A column that no list has.
    #[error("there is no column `{0}`: a list has `fingerprint`, and may have `endpoint`, `tags` and `attribute.KEY`")]
    Unknown(String),
    /// A column that stands there twice.
    #[error("the column `{0}` stands there twice")]
    Twice(String),
    /// Nothing can be enrolled without it.
    #[error("the column `fingerprint` is missing")]
    NoFingerprint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Column {
    Fingerprint,
    Endpoint,
    Tags,
    Attribute(String),
}

/// The columns of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListHead(Vec<Column>);

impl ListHead {
    /// Reads the first line of a list.
    pub fn parse(line: &[u8]) -> Result<Self, HeadFault> {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let fields = fields(line).filter(|fields| fields.len() <= MAX_COLUMNS).ok_or(HeadFault::Malformed)?;
        let mut columns = Vec::new();
        for field in fields {
            let column = match field.trim() {
                "fingerprint" => Column::Fingerprint,
                "endpoint" => Column::Endpoint,
                "tags" => Column::Tags,
                other => match other.strip_prefix("attribute.").filter(|key| is_key(key)) {
                    Some(key) => Column::Attribute(key.to_owned()),
                    None => return Err(HeadFault::Unknown(shown(other))),
                },
            };
            if columns.contains(&column) {
                return Err(HeadFault::Twice(shown(field.trim())));
            }
            columns.push(column);
        }
        let attributes = columns.iter().filter(|column| matches!(column, Column::Attribute(_))).count();
        if !columns.contains(&Column::Fingerprint) {
            return Err(HeadFault::NoFingerprint);
        }
        if attributes as u64 > MAX_ATTRIBUTES {
            return Err(HeadFault::Malformed);
        }
        Ok(Self(columns))
    }

    /// Reads one line after the head.
    pub fn read(&self, line: &[u8]) -> Result<ListedCertificate, LineFault> {
        if line.len() > MAX_LINE_BYTES {
            return Err(LineFault::TooLong);
        }
        let fields = fields(line).ok_or(LineFault::Malformed)?;
        if fields.len() != self.0.len() {
            return Err(LineFault::Fields { found: fields.len(), wanted: self.0.len() });
        }
        let mut listed = ListedCertificate { fingerprint: [0; 32], endpoint: None, labels: DeviceChange::default() };
        for (column, field) in self.0.iter().zip(&fields) {
            let field = field.trim();
            match column {
                Column::Fingerprint => {
                    listed.fingerprint = fingerprint(field).ok_or_else(|| LineFault::Fingerprint(shown(field)))?;
                }
                Column::Endpoint if field.is_empty() => {}
                Column::Endpoint => {
                    let name = EndpointName::new(field).map_err(|_| LineFault::Endpoint(shown(field)))?;
                    listed.endpoint = Some(name);
                }
                Column::Tags => {
                    listed.labels.add_tags = tags(field).ok_or_else(|| LineFault::Tags(shown(field)))?;
                }
                Column::Attribute(_) if field.is_empty() => {}
                Column::Attribute(key) => {
                    let value = value(field).ok_or_else(|| LineFault::Attribute(format!("attribute.{key}")))?;
                    listed.labels.attributes.push((key.clone(), Some(value)));
                }
            }
        }
        Ok(listed)
    }
}

/// The fields of a line (RFC 4180), which is one record and no more.
fn fields(line: &[u8]) -> Option<Vec<String>> {
    let mut records = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(line).into_records();
    let record = records.next()?.ok()?;
    if records.next().is_some() {
        return None;
    }
    Some(record.iter().map(str::to_owned).collect())
}

/// 64 hexadecimal digits, with or without colons between pairs, and `sha256:` or nothing before.
pub fn fingerprint(text: &str) -> Option<Fingerprint> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let mut found = [0; 32];
    let pairs: Vec<&str> = if digits.contains(':') {
        digits.split(':').collect()
    } else {
        digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default()).collect()
    };
    if pairs.len() != found.len() {
        return None;
    }
    for (byte, pair) in found.iter_mut().zip(pairs) {
        let is_pair = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = u8::from_str_radix(pair, 16).ok().filter(|_| is_pair)?;
    }
    Some(found)
}

/// A fingerprint as 64 hexadecimal digits.
pub fn fingerprint_text(fingerprint: &[u8]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tags with white space between them, each once.
fn tags(field: &str) -> Option<Vec<String>> {
    let mut tags: Vec<String> = field.split_whitespace().map(str::to_owned).collect();
    tags.sort_unstable();
    tags.dedup();
    let fits = tags.len() as u64 <= MAX_TAGS && tags.iter().all(|tag| is_tag(tag));
    fits.then_some(tags)
}

/// What is written like a number is one; in quotes of its own it is a text.
fn value(field: &str) -> Option<AttributeValue> {
    let quoted = field.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = match (quoted, field.parse::<f64>()) {
        (None, Ok(number)) if number.is_finite() => return Some(AttributeValue::Number(number)),
        (quoted, _) => quoted.unwrap_or(field),
    };
    let fits = text.chars().count() <= MAX_VALUE_CHARACTERS && !text.chars().any(char::is_control);
    fits.then(|| AttributeValue::Text(text.to_owned()))
}

/// The beginning of what was sent, for a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRINT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn head(text: &str) -> ListHead {
        ListHead::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_line_says_who_may_join_and_what_the_device_gets() {
        let head = head("\u{feff}attribute.rack, endpoint,fingerprint,tags,attribute.site");
        let read = head.read(format!("7,gate-1,{PRINT},lab new lab,\"Turku, harbour\"").as_bytes()).unwrap();
        assert_eq!(fingerprint_text(&read.fingerprint), PRINT);
        assert_eq!(read.endpoint.unwrap().as_str(), "gate-1");
        assert_eq!(read.labels.add_tags, ["lab", "new"]);
        let text = |text: &str| Some(AttributeValue::Text(text.to_owned()));
        assert_eq!(
            read.labels.attributes,
            [("rack".to_owned(), Some(AttributeValue::Number(7.0))), ("site".to_owned(), text("Turku, harbour"))]
        );
        let bare = head.read(format!("\"\"\"7\"\"\",,{PRINT},,").as_bytes()).unwrap();
        assert_eq!((bare.endpoint, bare.labels.attributes), (None, vec![("rack".to_owned(), text("7"))]));
    }

    #[test]
    fn fingerprints_are_read_as_tools_print_them() {
        let colons = PRINT
            .to_uppercase()
            .as_bytes()
            .chunks(2)
            .map(|p| String::from_utf8_lossy(p).into_owned())
            .collect::<Vec<_>>()
            .join(":");
        for text in [PRINT.to_owned(), PRINT.to_uppercase(), format!("sha256:{PRINT}"), colons] {
            assert_eq!(fingerprint(&text).map(|print| fingerprint_text(&print)).as_deref(), Some(PRINT), "{text}");
        }
        for text in [
            "",
            "00",
            &PRINT[1..],
            "+0112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            &format!("{PRINT}00"),
        ] {
            assert_eq!(fingerprint(text), None, "{text}");
        }
    }

    #[test]
    fn a_fault_says_what_is_wrong_with_the_line() {
        let head = head("fingerprint,endpoint,tags,attribute.rack");
        let long = "x".repeat(201);
        for (line, code) in [
            (format!("{PRINT},gate-1,"), "wrong_number_of_fields"),
            ("abc,gate-1,,".to_owned(), "invalid_fingerprint"),
            (format!("{PRINT},../x,,"), "invalid_endpoint"),
            (format!("{PRINT},gate-1,a/b,"), "invalid_tags"),
            (format!("{PRINT},gate-1,,{long}"), "invalid_attribute"),
            ("x".repeat(MAX_LINE_BYTES + 1), "line_too_long"),
        ] {
            assert_eq!(head.read(line.as_bytes()).unwrap_err().code(), code, "{line}");
        }
        assert_eq!(head.read(b"\xff\xfe,,,").unwrap_err(), LineFault::Malformed);
    }

    #[test]
    fn a_head_that_nobody_understands_is_refused_by_name() {
        let fault = |text: &str| ListHead::parse(text.as_bytes()).unwrap_err();
        assert_eq!(fault("endpoint"), HeadFault::NoFingerprint);
        assert_eq!(fault("fingerprint,serial"), HeadFault::Unknown("serial".into()));
        assert_eq!(fault("fingerprint,tags,tags"), HeadFault::Twice("tags".into()));
        assert_eq!(fault(""), HeadFault::Malformed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_a_fault(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let head = head("fingerprint,endpoint,tags,attribute.a");
            if let Ok(read) = head.read(&line) {
                prop_assert!(read.labels.add_tags.iter().all(|tag| is_tag(tag)));
            }
            drop(ListHead::parse(&line));
        }
    }
}
