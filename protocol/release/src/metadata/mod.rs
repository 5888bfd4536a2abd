//! What devices, signers and the service share about metadata files: names, limits, signatures. Never fetches or stores one.

mod delegate;
mod envelope;
mod key;
mod pattern;
mod role;

pub use delegate::Delegate;
pub use key::{KeyId, PublicKey, PublicKeyError};

pub(crate) use envelope::{Envelope, Signers, canonical};
pub(crate) use pattern::matches;
pub(crate) use role::{Metadata, Trusted};

/// Upper bound for every metadata file in bytes.
pub const MAX_METADATA_BYTES: u32 = 256 * 1024;

/// How many root versions one check walks at most; the next check goes on from there.
pub const MAX_ROOTS_A_CHECK: u32 = 256;

/// The version of The Update Framework's specification that written files name.
pub const SPEC_VERSION: &str = "1.0.31";

/// The name of version `version` of the root.
pub fn root_file(version: u64) -> String {
    format!("{version}.root.json")
}

/// The name of version `version` of the snapshot.
pub fn snapshot_file(version: u64) -> String {
    format!("{version}.snapshot.json")
}

/// The name of version `version` of the targets or of a delegated role.
pub fn targets_file(role: &str, version: u64) -> String {
    format!("{version}.{role}.json")
}

/// The name of the timestamp, the one file that changes in place.
pub const TIMESTAMP_FILE: &str = "timestamp.json";
