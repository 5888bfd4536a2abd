//! CoAP over TCP and TLS: messages in a byte stream (RFC 8323 section 3.2). Never reads a socket.

use super::{
    Code, Message, Token,
    wire::{Reader, WireError, decode_options, encode_options, encoded_len},
};

/// Cuts a byte stream into messages. Holds no more than one message and the bytes of one `push`.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    read: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder that refuses messages of more than `limit` bytes, header included: what this side announces in its CSM.
    pub const fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), read: 0, limit }
    }

    /// Takes the next bytes of the stream. Call [`Decoder::next_message`] until it gives `None` before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` if more bytes are needed. After an error the stream cannot be read on: send
    /// [`super::signal::abort`] and close.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        let waiting = self.buffer.get(self.read..).unwrap_or_default();
        let Some(size) = message_size(waiting)? else { return Ok(None) };
        if size > self.limit {
            return Err(WireError::TooLarge { size, limit: self.limit });
        }
        let Some(frame) = waiting.get(..size) else { return Ok(None) };
        let message = decode(frame)?;
        self.read += size;
        if self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
            // A connection that once carried a large message should not hold its room for ever.
            self.buffer.shrink_to(512);
        }
        Ok(Some(message))
    }

    /// Whether part of a message waits for its rest.
    pub fn is_inside_message(&self) -> bool {
        self.read < self.buffer.len()
    }
}

/// The size of the message that starts here; `None` if its header is not complete.
fn message_size(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let token_len = first & 0x0f;
    if token_len > 8 {
        return Err(WireError::TokenLength(token_len));
    }
    let (extra, base) = length_form(first >> 4);
    let Some(extended) = bytes.get(1..1 + extra) else { return Ok(None) };
    let len = extended.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
    Ok(Some(2 + extra + usize::from(token_len) + base + len))
}

/// How many bytes of length follow the first byte, and what is added to them.
const fn length_form(nibble: u8) -> (usize, usize) {
    match nibble {
        13 => (1, 13),
        14 => (2, 269),
        15 => (4, 65_805),
        small => (0, small as usize),
    }
}

/// Reads one whole message.
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    let mut reader = Reader(frame);
    let first = reader.byte()?;
    if first & 0x0f > 8 {
        return Err(WireError::TokenLength(first & 0x0f));
    }
    let (extra, base) = length_form(first >> 4);
    let len = base + reader.big_endian(extra)?;
    let code = Code::from_byte(reader.byte()?);
    let token = Token::new(reader.take(usize::from(first & 0x0f))?).ok_or(WireError::TokenLength(first & 0x0f))?;
    if reader.0.len() != len {
        return Err(WireError::Truncated);
    }
    let options = decode_options(&mut reader)?;
    Ok(Message { code, token, options, payload: reader.0.to_vec() })
}

/// Appends one message to `out`.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let len = encoded_len(&message.options, &message.payload);
    out.reserve(len + 14);
    let low = message.token.len_byte();
    match len {
        0..=12 => out.push((len.to_le_bytes()[0] << 4) | low),
        13..=268 => out.extend_from_slice(&[(13 << 4) | low, (len - 13).to_le_bytes()[0]]),
        269..=65_804 => {
            out.push((14 << 4) | low);
            out.extend_from_slice(&u16::try_from(len - 269).unwrap_or(u16::MAX).to_be_bytes());
        }
        _ => {
            out.push((15 << 4) | low);
            out.extend_from_slice(&u32::try_from(len - 65_805).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.push(message.code.byte());
    out.extend_from_slice(message.token.as_bytes());
    encode_options(&message.options, &message.payload, out);
}

/// How many bytes [`encode`] writes.
pub fn size(message: &Message) -> usize {
    let len = encoded_len(&message.options, &message.payload);
    let extra = match len {
        0..=12 => 0,
        13..=268 => 1,
        269..=65_804 => 2,
        _ => 4,
    };
    2 + extra + message.token.as_bytes().len() + len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coap::message::strategy::any_message;

    /// RFC 8323, figures 6 to 8 and the signals without options: an empty frame, a Ping and a Pong with token, a GET.
    #[test]
    fn frames_of_the_standard_have_these_bytes() {
        let mut ping = Message::new(Code::PING);
        ping.token = Token::new(&[0x42]).unwrap();
        let get = Message::new(Code::GET).path("/temperature").with_token(Token::new(&[0x7d, 0x34]).unwrap());
        for (message, bytes) in [
            (Message::new(Code::EMPTY), b"\x00\x00".to_vec()),
            (ping, b"\x01\xe2\x42".to_vec()),
            (Message::new(Code::CSM), b"\x00\xe1".to_vec()),
            (get, b"\xc2\x01\x7d\x34\xbbtemperature".to_vec()),
        ] {
            let mut out = Vec::new();
            encode(&message, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_awaited() {
        let mut decoder = Decoder::new(1152);
        decoder.push(&[0xf0, 0x00, 0x0f, 0xff, 0xff]);
        assert!(matches!(decoder.next_message(), Err(WireError::TooLarge { limit: 1152, .. })));
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_gives_the_same_messages(
            messages in proptest::collection::vec(any_message(), 1..6),
            cut in 1_usize..64,
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                let before = stream.len();
                encode(message, &mut stream);
                prop_assert_eq!(stream.len() - before, size(message));
            }
            let mut decoder = Decoder::new(1 << 20);
            let mut read = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                while let Some(message) = decoder.next_message().unwrap() {
                    read.push(message);
                }
            }
            prop_assert_eq!(read, messages);
            prop_assert!(!decoder.is_inside_message());
        }

        #[test]
        fn any_stream_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::new(300);
            for piece in bytes.chunks(7) {
                decoder.push(piece);
                while let Ok(Some(message)) = decoder.next_message() {
                    prop_assert!(size(&message) <= 300);
                }
                prop_assert!(decoder.buffer.capacity() <= 4 * bytes.len() + 64);
            }
        }
    }
}
