//! Brings one blob into the store, piece by piece, each piece no larger than a message may carry.

use protocol_types::{
    Digest,
    socket::{FetchError, MAX_FETCH},
};

use super::PrepareError;
use crate::{
    image::BlobRef,
    store::{Blobs, Partial},
};

/// Whoever brings pieces of artifacts: in the product, the agent on the other end of a socket.
pub trait Source {
    /// At most `length` bytes of the artifact from `offset` on; fewer come only at its end.
    fn fetch(&self, digest: Digest, offset: u64, length: u32) -> Result<Vec<u8>, FetchError>;

    /// Whether somebody wants something else by now.
    fn interrupted(&self) -> bool;
}

/// Brings nothing: what is in storage is all there is.
pub(super) struct Nobody;

impl Source for Nobody {
    fn fetch(&self, _: Digest, _: u64, _: u32) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::Unreachable)
    }

    fn interrupted(&self) -> bool {
        false
    }
}

/// Makes sure that the whole, checked blob is in the store. `progress` hears how many of its bytes are.
pub(super) fn fetch(
    blobs: &Blobs,
    source: &dyn Source,
    blob: &BlobRef,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PrepareError> {
    if blobs.has(blob) {
        return Ok(());
    }
    let mut partial = blobs.resume(blob)?;
    fill(&mut partial, source, blob, progress).or_else(|error| give_up(blobs, &partial, error))?;
    if partial.resumed() && !partial.matches() {
        // A power cut may have left bytes that never reached the disk. Once more from the first byte decides who is to blame.
        partial.restart()?;
        fill(&mut partial, source, blob, progress).or_else(|error| give_up(blobs, &partial, error))?;
    }
    Ok(blobs.finish(partial)?)
}

fn fill(
    partial: &mut Partial,
    source: &dyn Source,
    blob: &BlobRef,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PrepareError> {
    let digest = blob.digest;
    while partial.missing() > 0 {
        if source.interrupted() {
            return Err(PrepareError::Interrupted);
        }
        let at = partial.at();
        let length = u32::try_from(partial.missing()).map_or(MAX_FETCH, |missing| missing.min(MAX_FETCH));
        let bytes = source.fetch(digest, at, length).map_err(|source| PrepareError::Fetch { digest, at, source })?;
        let arrived = bytes.len() as u64;
        if arrived > u64::from(length) {
            return Err(PrepareError::TooLong { digest, size: at + arrived, limit: at + u64::from(length) });
        }
        partial.append(&bytes)?;
        progress(partial.at());
        if arrived < u64::from(length) {
            return Err(PrepareError::Truncated { digest, at: partial.at(), size: blob.size });
        }
    }
    Ok(())
}

/// What arrived stays for the next attempt, unless the disk is full or the bytes cannot be right.
fn give_up(blobs: &Blobs, partial: &Partial, error: PrepareError) -> Result<(), PrepareError> {
    match &error {
        PrepareError::Fetch { .. } | PrepareError::Interrupted => {}
        PrepareError::Truncated { .. }
        | PrepareError::TooLong { .. }
        | PrepareError::Store(_)
        | PrepareError::Damaged { .. }
        | PrepareError::Spec { .. }
        | PrepareError::Image { .. }
        | PrepareError::Layer { .. } => blobs.abandon(partial)?,
    }
    Err(error)
}
