//! Versions of releases and the security version that forbids going back below a repaired hole.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The version of a release or component, by Semantic Versioning 2.0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseVersion(semver::Version);

/// A text that is not a version.
#[derive(Debug, thiserror::Error)]
#[error("`{given}` is not a version: write three numbers as in 1.2.0, at most 64 characters")]
pub struct VersionError {
    given: String,
    source: Option<semver::Error>,
}

impl ReleaseVersion {
    /// The version `major.minor.patch`.
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self(semver::Version::new(major, minor, patch))
    }
}

impl FromStr for ReleaseVersion {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let refuse =
            |source| VersionError { given: text.chars().take(64).flat_map(char::escape_default).collect(), source };
        if text.len() > 64 {
            return Err(refuse(None));
        }
        semver::Version::parse(text).map(Self).map_err(|e| refuse(Some(e)))
    }
}

impl TryFrom<String> for ReleaseVersion {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<ReleaseVersion> for String {
    fn from(version: ReleaseVersion) -> Self {
        version.0.to_string()
    }
}

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts repaired security holes, apart from the version: equal across ordinary releases so that a device may return to an
/// older one, raised when returning must become impossible. A device keeps the highest confirmed one as its floor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecurityVersion(pub u32);

impl fmt::Display for SecurityVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
