//! The outcome that only a completed check can build.

use protocol_types::{ApplicationSpec, Digest, TargetPath};

use crate::document::{Component, OsIndex, Release};

/// A release that passed every check of the workflow; its components may be fetched and installed by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedRelease {
    /// Digest of the release document.
    pub digest: Digest,
    /// Path of the release document in the targets.
    pub path: TargetPath,
    /// The release document.
    pub release: Release,
    /// The operating system, if the release has one.
    pub os: Option<VerifiedOs>,
    /// The applications, in the order of the document.
    pub applications: Vec<ApplicationSpec>,
}

/// The operating system of a verified release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedOs {
    /// What the release says about it.
    pub component: Component,
    /// Its index.
    pub index: OsIndex,
}
