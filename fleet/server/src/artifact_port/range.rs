//! Which bytes a request wants (RFC 9110, section 14). Never opens a file.

use std::ops::Range;

use axum::http::{HeaderMap, header};
use protocol_types::Digest;

/// The bytes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of them.
    Whole,
    /// From the first to the last, both included.
    Part { first: u64, last: u64 },
    /// A range that begins behind the end.
    Nothing,
}

impl Wanted {
    /// The first byte.
    const fn first(self) -> u64 {
        match self {
            Self::Whole | Self::Nothing => 0,
            Self::Part { first, .. } => first,
        }
    }

    /// Which bytes of `size`.
    pub(super) const fn range(self, size: u64) -> Range<u64> {
        self.first()..self.first() + self.length(size)
    }

    /// How many bytes of `size`.
    pub(super) const fn length(self, size: u64) -> u64 {
        match self {
            Self::Whole => size,
            Self::Part { first, last } => last - first + 1,
            Self::Nothing => 0,
        }
    }
}

/// The entity tag of bytes with this digest: the same bytes, the same tag, for ever.
pub(super) fn entity_tag(digest: &Digest) -> String {
    format!("\"{}\"", digest.hex())
}

/// What the headers of a request want of `size` bytes whose digest is `digest`. A range that is not understood, or several at
/// once, count as none (section 14.2), and so does a range of other bytes (`If-Range`, section 13.1.5).
pub(super) fn wanted(headers: &HeaderMap, digest: &Digest, size: u64) -> Wanted {
    let condition = headers.get(header::IF_RANGE);
    if condition.is_some_and(|tag| tag.as_bytes() != entity_tag(digest).as_bytes()) {
        return Wanted::Whole;
    }
    let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    text.and_then(|text| parse(text, size)).unwrap_or(Wanted::Whole)
}

fn parse(text: &str, size: u64) -> Option<Wanted> {
    let (unit, range) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    match range.trim().split_once('-')? {
        ("", length) => {
            let length = number(length)?.min(size);
            Some(if length == 0 { Wanted::Nothing } else { Wanted::Part { first: size - length, last: size - 1 } })
        }
        (first, last) => {
            let first = number(first)?;
            let last = if last.is_empty() { u64::MAX } else { number(last)? };
            if last < first {
                return None;
            }
            Some(if first < size { Wanted::Part { first, last: last.min(size - 1) } } else { Wanted::Nothing })
        }
    }
}

/// Digits only; what no integer holds lies behind every end.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(range: &str, size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(range) {
            headers.insert(header::RANGE, value);
        }
        wanted(&headers, &Digest::of(b""), size)
    }

    #[test]
    fn ranges_at_the_edges_are_those_of_the_standard() {
        let part = |first, last| Wanted::Part { first, last };
        for (range, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-9", part(0, 9)),
            ("bytes=9-9", part(9, 9)),
            ("bytes=3-", part(3, 9)),
            ("bytes=5-99", part(5, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-99", part(0, 9)),
            ("BYTES=1-2", part(1, 2)),
            ("bytes=0-99999999999999999999999", part(0, 9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-10", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=2-1", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(of(range, 10), expected, "{range}");
        }
        assert_eq!(of("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(of("bytes=-1", 0), Wanted::Nothing);
    }

    #[test]
    fn a_range_of_other_bytes_gets_all_of_these() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=1-2"));
        let digest = Digest::of(b"these");
        headers.insert(header::IF_RANGE, HeaderValue::from_str(&entity_tag(&digest)).unwrap());
        assert_eq!(wanted(&headers, &digest, 10), Wanted::Part { first: 1, last: 2 });
        assert_eq!(wanted(&headers, &Digest::of(b"those"), 10), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn no_range_reaches_beyond_the_end(text in "(bytes=)?[0-9,-]{0,44}", size: u64) {
            match of(&text, size) {
                Wanted::Part { first, last } => prop_assert!(first <= last && last < size),
                Wanted::Whole | Wanted::Nothing => {}
            }
        }
    }
}
