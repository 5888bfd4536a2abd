//! The bytes of a file, taken piece by piece while their digest is computed.

use std::{
    fs::File,
    io::{self, Read as _},
};

use protocol_types::{Digest, Hasher};

use super::blocking;

/// What is left of a file, and the digest of what was taken.
pub(super) struct Source {
    file: File,
    hasher: Hasher,
}

/// A piece of a file.
pub(super) struct Taken {
    /// Empty behind the end.
    pub(super) bytes: Vec<u8>,
    /// What follows it.
    pub(super) rest: Source,
}

impl Source {
    pub(super) fn new(file: File) -> Self {
        Self { file, hasher: Hasher::new() }
    }

    /// Takes the next `most` bytes, or fewer at the end.
    pub(super) async fn take(mut self, most: u64) -> io::Result<Taken> {
        blocking(move || {
            let mut bytes = Vec::new();
            (&mut self.file).take(most).read_to_end(&mut bytes)?;
            self.hasher.update(&bytes);
            Ok(Taken { bytes, rest: self })
        })
        .await
    }
}

impl Taken {
    /// Whether everything that was taken has this digest.
    pub(super) fn is_end_with(&self, digest: &Digest) -> bool {
        self.rest.hasher.clone().finish() == *digest
    }
}
