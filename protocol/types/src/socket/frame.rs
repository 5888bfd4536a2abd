//! Frames on a local socket: four bytes of length, most significant first, then one CBOR value.

use serde::{Serialize, de::DeserializeOwned};

/// The longest frame body in bytes: one fetched piece and room for what surrounds it.
pub const MAX_FRAME: usize = 256 * 1024 + 16 * 1024;

/// Room that an idle reader keeps: large frames are rare, and connections live as long as the device is up.
const KEPT: usize = 16 * 1024;

/// A frame that cannot be written or read. The connection it came from is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The body would be, or is announced to be, longer than [`MAX_FRAME`].
    #[error("frame of {0} bytes is longer than the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// The body is not the CBOR form of the expected message.
    #[error("frame does not hold the expected message: {0}")]
    Malformed(String),
}

/// The bytes of one frame that carries `message`.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let body = minicbor_serde::to_vec(message).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLong(body.len()))?;
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLong(body.len()));
    }
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Cuts a stream of bytes into messages; holds at most one frame and the piece pushed last.
#[derive(Debug, Default)]
pub struct FrameReader {
    pending: Vec<u8>,
}

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next complete message, or `None` until more bytes are pushed.
    pub fn take<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let Some((head, rest)) = self.pending.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*head)).map_err(|_| FrameError::TooLong(usize::MAX))?;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = minicbor_serde::from_slice(body).map_err(|e| FrameError::Malformed(e.to_string()))?;
        self.pending.drain(..4 + length);
        if self.pending.is_empty() && self.pending.capacity() > KEPT {
            self.pending = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Digest,
        socket::{AgentToUpdater, Fetched},
    };

    #[test]
    fn a_message_cut_anywhere_arrives_whole() {
        let message = AgentToUpdater::Fetched(Fetched { id: 7, result: Ok(vec![3; 1000]) });
        let frame = encode(&message).unwrap();
        for cut in 0..frame.len() {
            let mut reader = FrameReader::new();
            reader.push(&frame[..cut]);
            assert!(reader.take::<AgentToUpdater>().unwrap().is_none());
            reader.push(&frame[cut..]);
            assert_eq!(reader.take::<AgentToUpdater>().unwrap().as_ref(), Some(&message));
        }
    }

    #[test]
    fn the_largest_piece_fits_a_frame() {
        let message = AgentToUpdater::Fetched(Fetched { id: u64::MAX, result: Ok(vec![0xff; 256 * 1024]) });
        let frame = encode(&message).unwrap();
        assert!(frame.len() < 256 * 1024 + 256, "bytes travel as bytes, not as an array: {}", frame.len());
        let _ = Digest::of(&frame);
    }

    #[test]
    fn an_announced_length_beyond_the_limit_ends_the_connection() {
        let mut reader = FrameReader::new();
        reader.push(&u32::MAX.to_be_bytes());
        assert!(matches!(reader.take::<AgentToUpdater>(), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let mut reader = FrameReader::new();
            reader.push(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
            reader.push(&bytes);
            let read = reader.take::<AgentToUpdater>();
            prop_assert!(matches!(read, Ok(Some(_)) | Err(FrameError::Malformed(_))));
        }
    }
}
