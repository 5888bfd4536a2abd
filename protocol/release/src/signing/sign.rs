//! Turns a signed part into a signed file, and adds signatures to one. Never changes the signed part.

use std::error::Error;

use aws_lc_rs::rand::SystemRandom;
use serde_json::{Value, json};
use tough::{key_source::KeySource, schema::Signature};

use crate::metadata::{Envelope, KeyId, PublicKey, canonical};
use protocol_types::Reason;

/// A metadata file with its name in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedFile {
    /// Its name, for example `3.targets.json`.
    pub name: String,
    /// Its bytes, from now on never to be changed.
    pub bytes: Vec<u8>,
}

/// A file that cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key could not be reached or unlocked.
    #[error("cannot use a signing key")]
    Key(#[source] Box<dyn Error + Send + Sync>),
    /// The key was reached, but did not sign.
    #[error("key {id} did not sign")]
    Refused {
        /// Its id.
        id: KeyId,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The signed part cannot be written in canonical form.
    #[error("cannot write the canonical form")]
    Canonical(#[source] serde_json::Error),
    /// The bytes are not a signed file.
    #[error("not a signed metadata file")]
    NotSigned(#[source] Reason),
}

/// Signs `signed` with each of `keys`. Whether these are the right keys is for the one who verifies to say.
///
/// # Errors
/// If a key cannot be used.
pub async fn sign(signed: Value, keys: &[Box<dyn KeySource>]) -> Result<Vec<u8>, SignError> {
    with_signatures(signed, Vec::new(), keys).await
}

/// Adds the signatures of `keys` to a signed file; a signature that a key has there already is replaced.
///
/// # Errors
/// If `file` is not a signed file or a key cannot be used.
pub async fn add_signatures(file: &[u8], keys: &[Box<dyn KeySource>]) -> Result<Vec<u8>, SignError> {
    let (signed, signatures) = Envelope::parse("the file to sign", file).map_err(SignError::NotSigned)?.into_parts();
    with_signatures(signed, signatures, keys).await
}

async fn with_signatures(
    signed: Value,
    mut signatures: Vec<Signature>,
    keys: &[Box<dyn KeySource>],
) -> Result<Vec<u8>, SignError> {
    let message = canonical(&signed).map_err(SignError::Canonical)?;
    for source in keys {
        let pair = source.as_sign().await.map_err(SignError::Key)?;
        let public = PublicKey::try_from(pair.tuf_key()).map_err(|e| SignError::Key(Box::new(e)))?;
        let signature = pair.sign(&message, &SystemRandom::new()).await;
        let sig = signature.map_err(|source| SignError::Refused { id: public.id(), source })?.into();
        signatures.retain(|other| other.keyid != *public.raw_id());
        signatures.push(Signature { keyid: public.raw_id().clone(), sig });
    }
    // The same signed part is the same file, whatever order the objects of this build keep.
    let mut file = json!({ "signatures": signatures, "signed": signed });
    file.sort_all_objects();
    let mut bytes = serde_json::to_vec_pretty(&file).map_err(SignError::Canonical)?;
    bytes.push(b'\n');
    Ok(bytes)
}
