//! What the JSON documents share: a limit before anything is read, and rules that hold for every one that is read or written.

use serde::{Serialize, de::DeserializeOwned};

use super::{DocumentError, error::within};

/// A document with a JSON text.
pub(super) trait JsonDocument: Serialize + DeserializeOwned {
    /// What its errors call it.
    const KIND: &'static str;
    /// Upper bound for the text in bytes.
    const LIMIT: usize;

    /// Refuses what breaks a rule of the format page.
    fn check(&self) -> Result<(), DocumentError>;
}

pub(super) fn parse<D: JsonDocument>(bytes: &[u8]) -> Result<D, DocumentError> {
    within(D::KIND, bytes, D::LIMIT)?;
    let document: D = serde_json::from_slice(bytes).map_err(malformed::<D>)?;
    document.check()?;
    Ok(document)
}

pub(super) fn to_bytes<D: JsonDocument>(document: &D) -> Result<Vec<u8>, DocumentError> {
    document.check()?;
    let mut bytes = serde_json::to_vec_pretty(document).map_err(malformed::<D>)?;
    bytes.push(b'\n');
    within(D::KIND, &bytes, D::LIMIT)?;
    Ok(bytes)
}

fn malformed<D: JsonDocument>(source: serde_json::Error) -> DocumentError {
    DocumentError::Malformed { kind: D::KIND, source }
}
