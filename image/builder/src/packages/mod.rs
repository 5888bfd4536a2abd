//! Debian packages: which ones, pinned by digest, fetched into a private cache and unpacked without running their scripts. Never
//! changes the machine's package state and needs no root.

pub(crate) mod apt;
mod cache;
mod control;
pub(crate) mod deb;
mod lock;
mod mirror;
mod resolve;
mod source;

use std::{collections::BTreeSet, io, path::PathBuf};

pub use cache::PackageCache;
pub(crate) use cache::digest_of;
pub use lock::{Chosen, Lock, LockError, LockedPackage, Pool};
pub use resolve::ResolveError;
pub use source::{LockedSource, SourceFile};

use crate::command::CommandError;

/// The Debian release that images and build tools come from.
pub const RELEASE: &str = "trixie";

/// Packages that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A tool failed.
    #[error("cannot fetch or unpack packages")]
    Command(#[from] CommandError),
    /// The cache could not be read or written.
    #[error("cannot use the package cache at {}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that says where the machine gets packages from could not be read.
    #[error("cannot read {}", path.display())]
    Sources {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The machine's apt does not say where it gets Debian from.
    #[error("apt of this machine names no Debian archive and security archive; is this a Debian machine?")]
    NoMirror,
    /// A downloaded package is not the one that the lock names.
    #[error("package `{package}` does not have the digest that is expected of it")]
    Digest {
        /// The package.
        package: String,
    },
    /// A file in the cache is not what its name says.
    #[error("{} is not the package `{package}` that it was; remove it and build again", path.display())]
    Tampered {
        /// The package.
        package: String,
        /// The file.
        path: PathBuf,
    },
    /// What was pinned for this machine cannot be told any more.
    #[error("cannot tell from {} which packages are pinned; remove it to pin what apt knows now", path.display())]
    Pins {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: LockError,
    },
    /// The mirror serves current versions only.
    #[error("the mirror no longer has what is locked ({packages}); run `mbl image lock --update`")]
    Gone {
        /// Names and versions.
        packages: String,
    },
    /// The mirror serves current sources only.
    #[error("the mirror no longer has what is locked ({file}); run `mbl image lock --update`")]
    SourceGone {
        /// The file.
        file: String,
        /// What apt said.
        source: Box<PackageError>,
    },
    /// apt said something about a source that is not understood.
    #[error("apt names no source archive of `{0}`")]
    NoSource(String),
    /// The packages do not close.
    #[error("cannot resolve the packages")]
    Resolve(#[from] ResolveError),
    /// The lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// What one pool is resolved from.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// Packages that are named.
    pub named: BTreeSet<&'a str>,
    /// Packages that are left out though something depends on them.
    pub without: BTreeSet<&'a str>,
}

impl PackageCache {
    /// Resolves one pool from what the mirror has now; nothing is downloaded but lists.
    pub fn resolve(
        &self,
        pool: Pool,
        architecture: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<LockedPackage>, PackageError> {
        let apt = apt::Apt::for_release(self.path(), RELEASE, architecture)?;
        apt.update()?;
        let candidates = apt.closure(&wanted.named)?;
        Ok(resolve::resolve(pool, &candidates, &wanted.named, &wanted.without)?)
    }

    /// Makes sure that the cache holds the locked packages of one pool.
    pub fn fetch_locked(&self, architecture: &str, packages: &[LockedPackage]) -> Result<(), PackageError> {
        self.fetch(&apt::Apt::for_release(self.path(), RELEASE, architecture)?, packages)
    }
}
