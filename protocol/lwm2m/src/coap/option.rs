//! Options of a message: numbers, the rules that each number has, and a sorted list that allocates twice at most.

use std::fmt;

use super::Code;

/// The number of an option (RFC 7252 section 5.10 and later registrations).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OptionNumber(pub u16);

/// What the standard says about one option: the length of its value in bytes and whether it may come more than once.
struct Rule {
    number: u16,
    name: &'static str,
    min: usize,
    max: usize,
    repeatable: bool,
}

macro_rules! numbers {
    ($($name:ident = $number:literal, $text:literal, $min:literal ..= $max:literal $(, $repeat:ident)?;)+) => {
        impl OptionNumber {
            $(#[doc = $text] pub const $name: Self = Self($number);)+
        }
        const RULES: &[Rule] = &[$(
            Rule { number: $number, name: $text, min: $min, max: $max, repeatable: numbers!(@ $($repeat)?) },
        )+];
    };
    (@ repeatable) => { true };
    (@) => { false };
}

numbers! {
    IF_MATCH = 1, "If-Match", 0..=8, repeatable;
    URI_HOST = 3, "Uri-Host", 1..=255;
    ETAG = 4, "ETag", 1..=8, repeatable;
    IF_NONE_MATCH = 5, "If-None-Match", 0..=0;
    OBSERVE = 6, "Observe", 0..=3;
    URI_PORT = 7, "Uri-Port", 0..=2;
    LOCATION_PATH = 8, "Location-Path", 0..=255, repeatable;
    URI_PATH = 11, "Uri-Path", 0..=255, repeatable;
    CONTENT_FORMAT = 12, "Content-Format", 0..=2;
    MAX_AGE = 14, "Max-Age", 0..=4;
    URI_QUERY = 15, "Uri-Query", 0..=255, repeatable;
    ACCEPT = 17, "Accept", 0..=2;
    LOCATION_QUERY = 20, "Location-Query", 0..=255, repeatable;
    BLOCK2 = 23, "Block2", 0..=3;
    BLOCK1 = 27, "Block1", 0..=3;
    SIZE2 = 28, "Size2", 0..=4;
    PROXY_URI = 35, "Proxy-Uri", 1..=1034;
    PROXY_SCHEME = 39, "Proxy-Scheme", 1..=255;
    SIZE1 = 60, "Size1", 0..=4;
}

impl OptionNumber {
    /// Whether a receiver that does not know the option must refuse the message (RFC 7252 section 5.4.1).
    pub const fn is_critical(self) -> bool {
        self.0 & 1 == 1
    }

    /// Whether a proxy that does not know the option must not forward the message (RFC 7252 section 5.4.2).
    pub const fn is_unsafe(self) -> bool {
        self.0 & 2 == 2
    }

    /// Whether the option is not part of the cache key (RFC 7252 section 5.4.2).
    pub const fn is_no_cache_key(self) -> bool {
        self.0 & 0x1e == 0x1c
    }

    fn rule(self) -> Option<&'static Rule> {
        RULES.binary_search_by_key(&self.0, |rule| rule.number).ok().map(|at| &RULES[at])
    }
}

impl fmt::Display for OptionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule() {
            Some(rule) => f.write_str(rule.name),
            None => write!(f, "option {}", self.0),
        }
    }
}

impl fmt::Debug for OptionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A critical option that this side does not know, or whose value or number of occurrences breaks its rule; answered with 4.02.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is critical and cannot be processed")]
pub struct BadOption(pub OptionNumber);

impl BadOption {
    /// The response code of the refusal.
    pub const fn code(&self) -> Code {
        Code::BAD_OPTION
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    number: u16,
    start: u32,
    len: u32,
}

/// The options of one message in the order of their numbers.
#[derive(Clone, Default)]
pub struct Options {
    index: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Options {
    /// No options.
    pub const fn new() -> Self {
        Self { index: Vec::new(), bytes: Vec::new() }
    }

    /// Adds an option after those of the same number.
    pub fn push(&mut self, number: OptionNumber, value: &[u8]) {
        let (Ok(start), Ok(len)) = (u32::try_from(self.bytes.len()), u32::try_from(value.len())) else { return };
        let at = self.index.partition_point(|entry| entry.number <= number.0);
        self.index.insert(at, Entry { number: number.0, start, len });
        self.bytes.extend_from_slice(value);
    }

    /// Adds an option whose value is an unsigned integer without leading zero bytes (RFC 7252 section 3.2).
    pub fn push_uint(&mut self, number: OptionNumber, value: u32) {
        let bytes = value.to_be_bytes();
        let skip = bytes.iter().take_while(|b| **b == 0).count();
        self.push(number, &bytes[skip..]);
    }

    /// Replaces every option of this number with one unsigned integer.
    pub fn set_uint(&mut self, number: OptionNumber, value: u32) {
        self.remove(number);
        self.push_uint(number, value);
    }

    /// Takes every option of this number away.
    pub fn remove(&mut self, number: OptionNumber) {
        self.index.retain(|entry| entry.number != number.0);
    }

    /// Every option, in the order of the numbers.
    pub fn iter(&self) -> impl Iterator<Item = (OptionNumber, &[u8])> {
        self.index.iter().map(|entry| (OptionNumber(entry.number), self.value(entry)))
    }

    /// The values of every option of this number whose length is right.
    pub fn all(&self, number: OptionNumber) -> impl Iterator<Item = &[u8]> {
        let from = self.index.partition_point(|entry| entry.number < number.0);
        let fits = number.rule().map_or(0..=usize::MAX, |rule| rule.min..=rule.max);
        let found = self.index[from..].iter().take_while(move |entry| entry.number == number.0);
        found.map(|entry| self.value(entry)).filter(move |value| fits.contains(&value.len()))
    }

    /// The first value of this number whose length is right.
    pub fn first(&self, number: OptionNumber) -> Option<&[u8]> {
        self.all(number).next()
    }

    /// The first value of this number as an unsigned integer.
    pub fn uint(&self, number: OptionNumber) -> Option<u32> {
        let value = self.first(number)?;
        if value.len() > 4 {
            return None;
        }
        Some(value.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte)))
    }

    /// The values of this number that are UTF-8.
    pub fn texts(&self, number: OptionNumber) -> impl Iterator<Item = &str> {
        self.all(number).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// Whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many options there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Refuses a message whose critical options cannot all be processed (RFC 7252 sections 5.4.1, 5.4.3 and 5.4.5): an option is
    /// unknown, has a value of the wrong length, comes too often, or is no text although it names something. The same faults in elective
    /// options are passed over.
    pub fn check(&self) -> Result<(), BadOption> {
        const NAMES: [OptionNumber; 3] = [OptionNumber::URI_HOST, OptionNumber::URI_PATH, OptionNumber::URI_QUERY];
        let mut before = None;
        for (number, value) in self.iter() {
            let fine = number.rule().is_some_and(|rule| {
                (rule.min..=rule.max).contains(&value.len())
                    && (rule.repeatable || before != Some(number))
                    && (!NAMES.contains(&number) || std::str::from_utf8(value).is_ok())
            });
            if number.is_critical() && !fine {
                return Err(BadOption(number));
            }
            before = Some(number);
        }
        Ok(())
    }

    fn value(&self, entry: &Entry) -> &[u8] {
        let start = usize::try_from(entry.start).unwrap_or(usize::MAX);
        let len = usize::try_from(entry.len).unwrap_or(usize::MAX);
        self.bytes.get(start..start.saturating_add(len)).unwrap_or_default()
    }
}

impl PartialEq for Options {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Options {}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
