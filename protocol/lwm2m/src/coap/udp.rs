//! CoAP over UDP and DTLS: one message a datagram (RFC 7252 section 3). Never sends again; that is for the transport above.

use super::{
    Code, Message, Token,
    wire::{Reader, WireError, decode_options, encode_options},
};

/// Whether a datagram wants to be acknowledged, or acknowledges or rejects another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Wants an acknowledgement.
    Confirmable,
    /// Wants none.
    NonConfirmable,
    /// Acknowledges, perhaps with the response.
    Acknowledgement,
    /// Says that the message could not be processed.
    Reset,
}

/// A message and what only datagrams have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Confirmable or not, acknowledgement or reset.
    pub kind: Kind,
    /// Message id: ties acknowledgement and reset to a message, and tells duplicates.
    pub id: u16,
    /// The message.
    pub message: Message,
}

impl Datagram {
    /// An empty message: a ping if confirmable, a bare acknowledgement or a reset.
    pub const fn empty(kind: Kind, id: u16) -> Self {
        Self { kind, id, message: Message::new(Code::EMPTY) }
    }
}

/// A datagram that is not a CoAP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a datagram of {len} bytes is not a CoAP message")]
pub struct DatagramError {
    /// Its length.
    pub len: usize,
    /// The id to reject with a reset, if it came that far and was confirmable (RFC 7252 section 4.2); otherwise it is passed over.
    pub reject: Option<u16>,
    /// What is wrong.
    pub source: WireError,
}

/// Reads a datagram.
pub fn decode(bytes: &[u8]) -> Result<Datagram, DatagramError> {
    let failed = |reject| move |source| DatagramError { len: bytes.len(), reject, source };
    let mut reader = Reader(bytes);
    let (kind, token_len, code, id) = header(&mut reader).map_err(failed(None))?;
    let reject = (kind == Kind::Confirmable).then_some(id);
    let message = body(&mut reader, token_len, code).map_err(failed(reject))?;
    Ok(Datagram { kind, id, message })
}

fn header(reader: &mut Reader<'_>) -> Result<(Kind, u8, Code, u16), WireError> {
    let &[first, code, high, low] = reader.take(4)? else { return Err(WireError::Truncated) };
    if first >> 6 != 1 {
        return Err(WireError::Version(first >> 6));
    }
    let kind = match (first >> 4) & 3 {
        0 => Kind::Confirmable,
        1 => Kind::NonConfirmable,
        2 => Kind::Acknowledgement,
        _ => Kind::Reset,
    };
    Ok((kind, first & 0x0f, Code::from_byte(code), u16::from_be_bytes([high, low])))
}

fn body(reader: &mut Reader<'_>, token_len: u8, code: Code) -> Result<Message, WireError> {
    if token_len > 8 {
        return Err(WireError::TokenLength(token_len));
    }
    if code == Code::EMPTY && (token_len != 0 || !reader.0.is_empty()) {
        return Err(WireError::NotEmpty);
    }
    let token = Token::new(reader.take(usize::from(token_len))?).ok_or(WireError::TokenLength(token_len))?;
    let options = decode_options(reader)?;
    Ok(Message { code, token, options, payload: reader.0.to_vec() })
}

/// Appends a datagram to `out`.
pub fn encode(datagram: &Datagram, out: &mut Vec<u8>) {
    let kind = match datagram.kind {
        Kind::Confirmable => 0,
        Kind::NonConfirmable => 1,
        Kind::Acknowledgement => 2,
        Kind::Reset => 3,
    };
    let message = &datagram.message;
    out.push(0x40 | (kind << 4) | message.token.len_byte());
    out.push(message.code.byte());
    out.extend_from_slice(&datagram.id.to_be_bytes());
    out.extend_from_slice(message.token.as_bytes());
    encode_options(&message.options, &message.payload, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coap::{OptionNumber, message::strategy::any_message};

    fn bytes_of(datagram: &Datagram) -> Vec<u8> {
        let mut out = Vec::new();
        encode(datagram, &mut out);
        out
    }

    /// RFC 7252, figures 16 and 17: a request and its piggybacked response, without and with token.
    #[test]
    fn the_examples_of_the_standard_have_these_bytes() {
        let request = |kind, token: &[u8]| Datagram {
            kind,
            id: 0x7d34,
            message: Message::new(Code::GET).path("temperature").with_token(Token::new(token).unwrap()),
        };
        let mut response = Datagram::empty(Kind::Acknowledgement, 0x7d34);
        response.message = Message::refusal(Code::CONTENT, "22.3 C");
        let mut separate = response.clone();
        separate.message.token = Token::new(&[0x20]).unwrap();
        for (datagram, bytes) in [
            (request(Kind::Confirmable, &[]), b"\x40\x01\x7d\x34\xbbtemperature".to_vec()),
            (response, b"\x60\x45\x7d\x34\xff22.3 C".to_vec()),
            (request(Kind::Confirmable, &[0x20]), b"\x41\x01\x7d\x34\x20\xbbtemperature".to_vec()),
            (separate, b"\x61\x45\x7d\x34\x20\xff22.3 C".to_vec()),
            (Datagram::empty(Kind::Reset, 0x7d34), b"\x70\x00\x7d\x34".to_vec()),
        ] {
            assert_eq!(bytes_of(&datagram), bytes);
            assert_eq!(decode(&bytes), Ok(datagram));
        }
    }

    #[test]
    fn a_damaged_confirmable_names_the_id_to_reject_and_others_do_not() {
        assert_eq!(decode(b"\x40\x01\x00\x07\xff").unwrap_err().reject, Some(7));
        assert_eq!(decode(b"\x50\x01\x00\x07\xff").unwrap_err().reject, None);
        assert_eq!(decode(b"\x80\x01\x00\x07").unwrap_err().source, WireError::Version(2));
        assert_eq!(decode(b"\x49\x01\x00\x07").unwrap_err().source, WireError::TokenLength(9));
        assert_eq!(decode(b"\x41\x00\x00\x07\x01").unwrap_err().source, WireError::NotEmpty);
    }

    #[test]
    fn an_unknown_critical_option_is_refused_and_an_unknown_elective_one_passed_over() {
        let mut message = Message::new(Code::GET);
        message.options.push(OptionNumber(2050), b"x");
        assert_eq!(message.options.check(), Ok(()));
        message.options.push(OptionNumber(2051), b"x");
        assert_eq!(message.options.check().unwrap_err().0, OptionNumber(2051));
    }

    #[test]
    fn a_critical_option_of_wrong_length_or_too_often_counts_as_unknown() {
        let long = Message::new(Code::GET).path(&"x".repeat(256));
        assert_eq!(long.options.check().unwrap_err().0, OptionNumber::URI_PATH);
        let mut twice = Message::new(Code::GET).accept(crate::coap::ContentFormat::TLV);
        twice.options.push_uint(OptionNumber::ACCEPT, 0);
        assert_eq!(twice.options.check().unwrap_err().0, OptionNumber::ACCEPT);
        let mut elective = Message::new(Code::GET);
        elective.options.push(OptionNumber::MAX_AGE, &[1; 9]);
        assert_eq!((elective.options.check(), elective.options.uint(OptionNumber::MAX_AGE)), (Ok(()), None));
    }

    proptest! {
        #[test]
        fn a_datagram_reads_back_as_written(message in any_message(), id: u16, kind in 0..4) {
            let kinds = [Kind::Confirmable, Kind::NonConfirmable, Kind::Acknowledgement, Kind::Reset];
            let datagram = Datagram { kind: kinds[usize::try_from(kind).unwrap()], id, message };
            prop_assert_eq!(decode(&bytes_of(&datagram)), Ok(datagram));
        }

        #[test]
        fn any_datagram_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(datagram) = decode(&bytes) {
                prop_assert_eq!(decode(&bytes_of(&datagram)), Ok(datagram));
            }
        }
    }
}
