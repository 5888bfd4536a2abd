//! Undoes the compression of a layer, with a bound on what comes out and on the memory that it takes.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::{LayerError, LimitHit};
use crate::{image::Compression, limits::Limits};

/// The archive inside `blob`, at most `limit` bytes of it: the byte after that is an error, so that a small blob cannot fill
/// the disk or keep the processor busy.
pub fn decoder<'a>(
    blob: impl Read + 'a,
    compression: Compression,
    limit: u64,
) -> Result<Box<dyn Read + 'a>, LayerError> {
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(blob))),
        Compression::Zstd => {
            let archive = |source| LayerError::Archive { source };
            let mut decoder = zstd::Decoder::new(blob).map_err(archive)?;
            decoder.window_log_max(Limits::ZSTD_WINDOW_LOG).map_err(archive)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Limited { inner, left: limit, limit }))
}

struct Limited<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
    limit: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(LimitHit { what: "bytes", limit: self.limit })),
        }
        Ok(read)
    }
}
