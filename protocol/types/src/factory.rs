//! The factory document: who a device is and whom it trusts, written once at provisioning.

use serde::{Deserialize, Serialize};

use crate::{AccountName, Architecture, BoardName, EndpointName, UnixSeconds, recovery::RecoveryKey};

/// One document with every fact that the factory decides. The key store keeps its digest; on a mismatch a device boots but
/// neither enrols nor installs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactoryDocument {
    /// Version of this format: 1.
    pub format: u32,
    /// The device's name, equal to the common name of its factory certificate.
    pub endpoint: EndpointName,
    /// The account that the device belongs to.
    pub account: AccountName,
    /// The board it is.
    pub board: BoardName,
    /// Its processor architecture.
    pub architecture: Architecture,
    /// Address of the bootstrap server, as in `coaps+tcp://service.example:5684`.
    pub bootstrap_uri: String,
    /// PEM certificates that the service's own certificates must chain to.
    pub service_authority: String,
    /// The first trusted TUF root metadata, as signed JSON text.
    pub tuf_root: String,
    /// PEM public key that signs nonce-bound time.
    pub time_key: String,
    /// Time of provisioning; no verification uses an earlier one.
    pub provisioned: UnixSeconds,
    /// Who can open the device's state if its key store is dead; nobody without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<RecoveryKey>,
}

/// A document that is not a factory document of a known format.
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    /// Longer than any factory document.
    #[error("factory document has {0} bytes, more than the limit of {limit}", limit = FactoryDocument::MAX_BYTES)]
    TooLong(usize),
    /// Not the JSON form of a factory document.
    #[error("factory document does not have the form of format 1")]
    Malformed(#[source] serde_json::Error),
    /// A format of another version.
    #[error("factory document has format {0}, only format 1 is known")]
    Format(u32),
}

impl FactoryDocument {
    /// Upper bound for the JSON text in bytes.
    pub const MAX_BYTES: usize = 256 * 1024;

    /// Reads the JSON text.
    pub fn parse(text: &[u8]) -> Result<Self, FactoryError> {
        if text.len() > Self::MAX_BYTES {
            return Err(FactoryError::TooLong(text.len()));
        }
        let document: Self = serde_json::from_slice(text).map_err(FactoryError::Malformed)?;
        if document.format != 1 {
            return Err(FactoryError::Format(document.format));
        }
        Ok(document)
    }
}
