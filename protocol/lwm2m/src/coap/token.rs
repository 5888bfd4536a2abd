//! The few bytes that tie a response to its request (RFC 7252 section 5.3.1).

use std::fmt;

/// 0 to 8 bytes, chosen by whoever sends the request.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    bytes: [u8; 8],
    len: u8,
}

impl Token {
    /// The token without bytes.
    pub const EMPTY: Self = Self { bytes: [0; 8], len: 0 };

    /// A token of up to 8 bytes; `None` if there are more.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut kept = [0; 8];
        kept.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { bytes: kept, len: u8::try_from(bytes.len()).ok()? })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// How many bytes there are, as the wire counts them.
    pub(crate) const fn len_byte(&self) -> u8 {
        self.len
    }
}

impl From<u32> for Token {
    fn from(number: u32) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        Self { bytes: [a, b, c, d, 0, 0, 0, 0], len: 4 }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
