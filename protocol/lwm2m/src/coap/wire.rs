//! Options and payload as both transports write them (RFC 7252 section 3.1). Never looks at what an option means.

use super::{OptionNumber, Options};

/// More options than any message of this project needs; a message with more is refused.
const MOST_OPTIONS: usize = 128;
const PAYLOAD_MARKER: u8 = 0xff;

/// Bytes that are not a CoAP message. There is no response to what is no request: a datagram is rejected with a reset or passed
/// over, a stream is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside of something.
    #[error("the message ends too early")]
    Truncated,
    /// A token of more than 8 bytes is announced.
    #[error("the token length {0} is reserved")]
    TokenLength(u8),
    /// An option's delta or length has the value that is kept for the payload marker.
    #[error("an option has a reserved delta or length")]
    ReservedNibble,
    /// The numbers of the options add up to more than 65535.
    #[error("an option number is out of range")]
    OptionNumber,
    /// Too many options.
    #[error("the message has more than {MOST_OPTIONS} options")]
    TooManyOptions,
    /// A payload marker without payload.
    #[error("the payload marker has no payload behind it")]
    EmptyPayload,
    /// Not version 1.
    #[error("the version {0} is not known")]
    Version(u8),
    /// An empty message that holds something.
    #[error("an empty message holds more than its header")]
    NotEmpty,
    /// A message larger than this side allows.
    #[error("a message of {size} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// What was announced.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// Reads bytes from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn byte(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self.0.split_first().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn big_endian(&mut self, len: usize) -> Result<usize, WireError> {
        Ok(self.take(len)?.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)))
    }

    /// A delta or length: 0 to 12 as it is, 13 and 14 with one or two bytes more.
    fn extended(&mut self, nibble: u8) -> Result<usize, WireError> {
        match nibble {
            13 => Ok(self.big_endian(1)? + 13),
            14 => Ok(self.big_endian(2)? + 269),
            15 => Err(WireError::ReservedNibble),
            small => Ok(usize::from(small)),
        }
    }
}

/// Reads options up to the payload marker or the end; the reader is left at the payload, which is empty if there is none.
pub(super) fn decode_options(reader: &mut Reader<'_>) -> Result<Options, WireError> {
    let mut options = Options::new();
    let mut number = 0_usize;
    while let Some(first) = reader.0.first().copied() {
        reader.take(1)?;
        if first == PAYLOAD_MARKER {
            return if reader.0.is_empty() { Err(WireError::EmptyPayload) } else { Ok(options) };
        }
        number += reader.extended(first >> 4)?;
        let len = reader.extended(first & 0x0f)?;
        let value = reader.take(len)?;
        if options.len() == MOST_OPTIONS {
            return Err(WireError::TooManyOptions);
        }
        options.push(OptionNumber(u16::try_from(number).map_err(|_| WireError::OptionNumber)?), value);
    }
    Ok(options)
}

/// Writes options and, if there is a payload, marker and payload.
pub(super) fn encode_options(options: &Options, payload: &[u8], out: &mut Vec<u8>) {
    let mut before = 0;
    for (number, value) in options.iter() {
        let (delta, delta_bytes, delta_len) = extend(usize::from(number.0 - before));
        let (len, len_bytes, len_len) = extend(value.len());
        before = number.0;
        out.push((delta << 4) | len);
        out.extend_from_slice(&delta_bytes[2 - delta_len..]);
        out.extend_from_slice(&len_bytes[2 - len_len..]);
        out.extend_from_slice(value);
    }
    if !payload.is_empty() {
        out.push(PAYLOAD_MARKER);
        out.extend_from_slice(payload);
    }
}

/// How many bytes [`encode_options`] writes.
pub(super) fn encoded_len(options: &Options, payload: &[u8]) -> usize {
    let mut before = 0;
    let mut len = if payload.is_empty() { 0 } else { payload.len() + 1 };
    for (number, value) in options.iter() {
        len += 1 + extend(usize::from(number.0 - before)).2 + extend(value.len()).2 + value.len();
        before = number.0;
    }
    len
}

/// The nibble for a delta or length, and the bytes that follow it at the end of two.
fn extend(value: usize) -> (u8, [u8; 2], usize) {
    match value {
        0..=12 => (value.to_le_bytes()[0], [0; 2], 0),
        13..=268 => (13, [0, (value - 13).to_le_bytes()[0]], 1),
        _ => (14, u16::try_from(value - 269).unwrap_or(u16::MAX).to_be_bytes(), 2),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_options() -> impl Strategy<Value = Options> {
        proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..12).prop_map(
            |list| {
                let mut options = Options::new();
                list.iter().for_each(|(number, value)| options.push(OptionNumber(*number), value));
                options
            },
        )
    }

    proptest! {
        #[test]
        fn options_read_back_as_written(options in any_options(), payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = Vec::new();
            encode_options(&options, &payload, &mut bytes);
            prop_assert_eq!(bytes.len(), encoded_len(&options, &payload));
            let mut reader = Reader(&bytes);
            prop_assert_eq!(decode_options(&mut reader), Ok(options));
            prop_assert_eq!(reader.0, &payload[..]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(options) = decode_options(&mut Reader(&bytes)) {
                prop_assert!(options.len() <= MOST_OPTIONS);
            }
        }
    }
}
