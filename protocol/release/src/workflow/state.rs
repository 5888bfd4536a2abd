//! What a device trusts between two checks, and its durable form.

use std::collections::BTreeMap;

use protocol_types::{Reason, ReasonCode, SecurityVersion, UnixSeconds};
use serde::{Deserialize, Serialize};
use tough::schema::{Root, Snapshot, Targets, Timestamp};

use crate::{
    document::FormatOne,
    metadata::{Delegate, Metadata, Trusted},
};

/// Everything that a device remembers of a repository: the metadata that it accepted last, the security floor and the latest time
/// that was proven. A value of this type was verified or read back from a store that the device trusts; its JSON form carries a
/// format version.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "File", into = "File")]
pub struct TrustedState {
    pub(super) root: Trusted<Root>,
    pub(super) timestamp: Option<Trusted<Timestamp>>,
    pub(super) snapshot: Option<Trusted<Snapshot>>,
    pub(super) targets: Option<Trusted<Targets>>,
    pub(super) delegated: BTreeMap<Delegate, Trusted<Targets>>,
    pub(super) floor: SecurityVersion,
    pub(super) seen: UnixSeconds,
}

/// A stored state that is not one; the caller reports it as [`ReasonCode::StateDamaged`].
#[derive(Debug, thiserror::Error)]
#[error("stored metadata cannot be read back")]
pub struct StateError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl From<StateError> for Reason {
    fn from(error: StateError) -> Self {
        Self::new(ReasonCode::StateDamaged, format!("{error}: {}", error.0))
    }
}

impl TrustedState {
    /// The state of a device that was just provisioned with `root`, the text of a signed root.
    ///
    /// # Errors
    /// If it is not a root, or not signed by a threshold of its own keys.
    pub fn from_root(root: &[u8]) -> Result<Self, Reason> {
        Ok(Self {
            root: Trusted::self_signed("the first root", root)?,
            timestamp: None,
            snapshot: None,
            targets: None,
            delegated: BTreeMap::new(),
            floor: SecurityVersion::default(),
            seen: UnixSeconds::default(),
        })
    }

    /// Reads what [`TrustedState::to_bytes`] wrote.
    ///
    /// # Errors
    /// If the bytes are not a state of a known format.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        serde_json::from_slice(bytes).map_err(|e| StateError(Box::new(e)))
    }

    /// The durable form.
    ///
    /// # Errors
    /// None in practice: every part was read from JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        serde_json::to_vec(self).map_err(|e| StateError(Box::new(e)))
    }

    /// Releases below this security version are refused.
    pub fn floor(&self) -> SecurityVersion {
        self.floor
    }

    /// Raises the floor, once a release whose signer asked for it was confirmed. It never sinks.
    pub fn raise_floor(&mut self, floor: SecurityVersion) {
        self.floor = self.floor.max(floor);
    }

    /// The latest time at which every role was found unexpired; zero before the first.
    pub fn seen(&self) -> UnixSeconds {
        self.seen
    }

    /// The version of the trusted root.
    pub fn root_version(&self) -> u64 {
        self.root.version()
    }

    /// The versions of everything that is trusted, by file name without its version: for logs and tests.
    pub fn versions(&self) -> BTreeMap<String, u64> {
        let mut versions = BTreeMap::from([("root".to_owned(), self.root.version())]);
        versions.extend(self.timestamp.iter().map(|t| ("timestamp".to_owned(), t.version())));
        versions.extend(self.snapshot.iter().map(|s| ("snapshot".to_owned(), s.version())));
        versions.extend(self.targets.iter().map(|t| ("targets".to_owned(), t.version())));
        versions.extend(self.delegated.iter().map(|(name, t)| (name.to_string(), t.version())));
        versions
    }
}

/// The durable form: each file as the text that was signed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: FormatOne,
    root: String,
    timestamp: Option<String>,
    snapshot: Option<String>,
    targets: Option<String>,
    delegated: BTreeMap<String, String>,
    floor: SecurityVersion,
    seen: UnixSeconds,
}

impl From<TrustedState> for File {
    fn from(state: TrustedState) -> Self {
        let delegated = state.delegated.iter().map(|(name, file)| (name.to_string(), file.text().to_owned()));
        Self {
            format: FormatOne,
            root: state.root.text().to_owned(),
            timestamp: state.timestamp.as_ref().map(|file| file.text().to_owned()),
            snapshot: state.snapshot.as_ref().map(|file| file.text().to_owned()),
            targets: state.targets.as_ref().map(|file| file.text().to_owned()),
            delegated: delegated.collect(),
            floor: state.floor,
            seen: state.seen,
        }
    }
}

impl TryFrom<File> for TrustedState {
    type Error = Reason;

    fn try_from(file: File) -> Result<Self, Reason> {
        let mut delegated = BTreeMap::new();
        for (name, text) in file.delegated {
            let role: Delegate =
                name.parse().map_err(|e| Reason::new(ReasonCode::StateDamaged, format!("role `{name}`: {e}")))?;
            delegated.insert(role, stored("a stored delegated role", &text)?);
        }
        Ok(Self {
            root: Trusted::self_signed("the stored root", file.root.as_bytes())?,
            timestamp: file.timestamp.map(|text| stored("the stored timestamp", &text)).transpose()?,
            snapshot: file.snapshot.map(|text| stored("the stored snapshot", &text)).transpose()?,
            targets: file.targets.map(|text| stored("the stored targets", &text)).transpose()?,
            delegated,
            floor: file.floor,
            seen: file.seen,
        })
    }
}

/// What is stored was verified when it was accepted, by keys that may have been rotated since.
fn stored<R: Metadata>(what: &str, text: &str) -> Result<Trusted<R>, Reason> {
    Trusted::read_unverified(what, text.as_bytes())
}
