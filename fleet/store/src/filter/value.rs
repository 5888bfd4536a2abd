//! Values that a field is held against, and the orders among them.

use std::time::Duration;

use jiff::Timestamp;
use protocol_types::{ReleaseVersion, UnixSeconds};

/// A value of the kind that its field has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(f64),
    Truth(bool),
    Version(ReleaseVersion),
    Time(Time),
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    At(UnixSeconds),
    /// So long before the moment at which the question is asked.
    Ago(Duration),
}

/// An operator that orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// A text with `*` for any run of characters and `?` for one; the case of ASCII letters counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(pub(super) String);

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Truth(_) | Self::Version(_) | Self::Time(_) => None,
        }
    }
}

impl Time {
    pub(super) fn at(self, now: UnixSeconds) -> UnixSeconds {
        match self {
            Self::At(time) => time,
            Self::Ago(before) => UnixSeconds(now.0.saturating_sub(before.as_secs())),
        }
    }

    /// RFC 3339, as in `2026-11-26T04:00:00Z`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let time: Timestamp = text.parse().ok()?;
        Some(Self::At(UnixSeconds(u64::try_from(time.as_second()).ok()?)))
    }
}

impl Order {
    pub(super) fn as_sql(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        }
    }
}

impl Pattern {
    /// For `LIKE … ESCAPE '\'`.
    pub(super) fn as_like(&self) -> String {
        let mut like = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            match c {
                '*' => like.push('%'),
                '?' => like.push('_'),
                '%' | '_' | '\\' => like.extend(['\\', c]),
                c => like.push(c),
            }
        }
        like
    }
}

/// A length of time such as `90s`, `15m`, `2h` or `30d`.
pub(super) fn duration(word: &str) -> Option<Duration> {
    let split = word.len().checked_sub(1)?;
    let seconds = match word.get(split..)? {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let count: u64 = word.get(..split)?.parse().ok()?;
    Some(Duration::from_secs(count.checked_mul(seconds)?))
}

/// A text whose order, character by character and in any collation, is the precedence of versions (Semantic Versioning 2.0,
/// section 11). Texts that are no version have none.
pub(crate) fn version_key(version: &str) -> Option<String> {
    let version: ReleaseVersion = version.parse().ok()?;
    let text = version.to_string();
    // Build metadata has no precedence.
    let text = text.split('+').next().unwrap_or_default();
    let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
    let mut key = String::new();
    for number in numbers.split('.') {
        push_number(&mut key, number);
    }
    if pre.is_empty() {
        key.push('9');
    }
    for (index, identifier) in pre.split('.').filter(|identifier| !identifier.is_empty()).enumerate() {
        // Fewer identifiers come first; `0` begins a number, `1` a word, and the end of a word is below all of its characters.
        key.push_str(if index == 0 { "1" } else { "2" });
        if identifier.bytes().all(|byte| byte.is_ascii_digit()) {
            key.push('0');
            push_number(&mut key, identifier);
        } else {
            key.push('1');
            identifier.bytes().for_each(|byte| key.push_str(&format!("{byte:02x}")));
            key.push_str("00");
        }
    }
    Some(key)
}

/// How many digits, then the digits: longer numbers come later.
fn push_number(key: &mut String, digits: &str) {
    key.push_str(&format!("{:02}{digits}", digits.len()));
}
