//! What `root`, `targets` and the delegated roles shall say, before anybody signs it. Never holds a private key.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
};

use protocol_types::{Digest, Reason, TargetPath, UnixSeconds};
use serde::Serialize;
use serde_json::Value;
use tough::{
    TargetName,
    key_source::KeySource,
    schema::{DelegatedRole, Delegations, Hashes, PathPattern, PathSet, RoleKeys, RoleType, Root, Target, Targets},
};

use super::{SignError, SignedFile, sign};
use crate::metadata::{Delegate, PublicKey, SPEC_VERSION, Trusted, root_file, targets_file};

/// The keys of one role and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The keys, each once.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
}

impl Holders {
    /// One key that signs alone.
    pub fn one(key: &PublicKey) -> Self {
        Self { keys: vec![key.clone()], threshold: 1 }
    }
}

/// What a root shall say: who holds which role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootDraft {
    /// One more than the root before it; 1 for the first.
    pub version: u64,
    /// When it expires.
    pub expires: UnixSeconds,
    /// The account's officers.
    pub root: Holders,
    /// The account's release key.
    pub targets: Holders,
    /// The service.
    pub snapshot: Holders,
    /// The service.
    pub timestamp: Holders,
}

/// What `targets` or a delegated role shall say: which files are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetsDraft {
    /// Higher than the version before it.
    pub version: u64,
    /// When it expires.
    pub expires: UnixSeconds,
    /// The files.
    pub entries: BTreeMap<TargetPath, Entry>,
    /// Who signs for components; empty in a delegated role.
    pub delegations: BTreeMap<Delegate, Holders>,
}

/// One file that a role vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl Entry {
    /// The entry for a file with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

/// A draft that no client would accept, or a file that a draft cannot be made from.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// A role has no key, one key twice, or fewer keys than its threshold.
    #[error("role `{role}` needs distinct keys, and a threshold from 1 to their number")]
    Holders {
        /// The role.
        role: String,
    },
    /// A version that no file may have.
    #[error("a version must be at least 1")]
    Version,
    /// A time that metadata cannot carry.
    #[error("{0} is no time that metadata can carry")]
    Expires(UnixSeconds),
    /// The library refused a value.
    #[error("cannot write `{what}` as metadata")]
    Value {
        /// The value.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not one that such a draft describes.
    #[error("cannot read the metadata to change")]
    Unreadable(#[source] Reason),
    /// The file says something that a draft has no place for, which signing again would lose.
    #[error("the metadata to change holds {0}, which this program did not write")]
    Foreign(&'static str),
    /// Signing failed.
    #[error("cannot sign")]
    Sign(#[from] SignError),
}

impl RootDraft {
    /// What a signed root says, so that its successor can be drafted: raise [`RootDraft::version`] by one and change the rest.
    ///
    /// # Errors
    /// If it is not a root. Signatures are not looked at.
    pub fn read(file: &[u8]) -> Result<Self, DraftError> {
        let root = Trusted::<Root>::read_unverified("the root", file).map_err(DraftError::Unreadable)?;
        if !root.role()._extra.is_empty() {
            return Err(DraftError::Foreign("fields of another tool"));
        }
        let holders = |role| {
            let keys = root.role().keys(role).cloned().map(PublicKey::try_from).collect::<Result<_, _>>();
            let threshold = root.role().roles.get(&role).and_then(|keys| u32::try_from(keys.threshold.get()).ok());
            match (keys, threshold) {
                (Ok(keys), Some(threshold)) => Ok(Holders { keys, threshold }),
                _ => Err(DraftError::Foreign("a threshold or key out of range")),
            }
        };
        Ok(Self {
            version: root.version(),
            expires: root.expires(),
            root: holders(RoleType::Root)?,
            targets: holders(RoleType::Targets)?,
            snapshot: holders(RoleType::Snapshot)?,
            timestamp: holders(RoleType::Timestamp)?,
        })
    }

    /// The signed file. A successor must be signed by a threshold of the old and of the new officers.
    ///
    /// # Errors
    /// If the draft is one that no client would accept, or a key cannot be used.
    pub async fn sign(&self, keys: &[Box<dyn KeySource>]) -> Result<SignedFile, DraftError> {
        Ok(SignedFile { name: root_file(self.version), bytes: sign(self.to_value()?, keys).await? })
    }

    fn to_value(&self) -> Result<Value, DraftError> {
        let mut root = Root {
            spec_version: SPEC_VERSION.to_owned(),
            consistent_snapshot: true,
            version: version(self.version)?,
            expires: expires(self.expires)?,
            keys: HashMap::new(),
            roles: HashMap::new(),
            _extra: HashMap::new(),
        };
        for (role, holders) in [
            (RoleType::Root, &self.root),
            (RoleType::Targets, &self.targets),
            (RoleType::Snapshot, &self.snapshot),
            (RoleType::Timestamp, &self.timestamp),
        ] {
            let threshold = threshold(&role.to_string(), holders)?;
            let keyids = holders.keys.iter().map(|key| key.raw_id().clone()).collect();
            root.keys.extend(holders.keys.iter().map(|key| (key.raw_id().clone(), key.key().clone())));
            root.roles.insert(role, RoleKeys { keyids, threshold, _extra: HashMap::new() });
        }
        to_value("root", &root)
    }
}

impl TargetsDraft {
    /// Empty targets.
    pub fn new(version: u64, expires: UnixSeconds) -> Self {
        Self { version, expires, entries: BTreeMap::new(), delegations: BTreeMap::new() }
    }

    /// What a signed file says, so that the next version can be drafted.
    ///
    /// # Errors
    /// If it is not targets, or says something that a draft has no place for. Signatures are not looked at.
    pub fn read(file: &[u8]) -> Result<Self, DraftError> {
        let targets = Trusted::<Targets>::read_unverified("the targets", file).map_err(DraftError::Unreadable)?;
        let mut draft = Self::new(targets.version(), targets.expires());
        if !targets.role()._extra.is_empty() {
            return Err(DraftError::Foreign("fields of another tool"));
        }
        for (name, target) in &targets.role().targets {
            let path = TargetPath::new(name.raw()).map_err(|_| DraftError::Foreign("a target path of another form"))?;
            let digest: Result<[u8; 32], _> = target.hashes.sha256.as_ref().try_into();
            let digest = digest.map_err(|_| DraftError::Foreign("a digest of another length"))?;
            if !target.custom.is_empty() || !target._extra.is_empty() {
                return Err(DraftError::Foreign("fields of another tool"));
            }
            draft.entries.insert(path, Entry { digest: Digest::from_bytes(digest), size: target.length });
        }
        let Some(delegations) = &targets.role().delegations else { return Ok(draft) };
        for role in &delegations.roles {
            let foreign = || DraftError::Foreign("a delegation of another form");
            let delegate: Delegate = role.name.parse().map_err(|_| foreign())?;
            if role.paths != paths(&delegate)? || !role.terminating {
                return Err(foreign());
            }
            let keys = role.keyids.iter().map(|id| delegations.keys.get(id).cloned().ok_or_else(foreign));
            let keys = keys.map(|key| PublicKey::try_from(key?).map_err(|_| foreign())).collect::<Result<_, _>>()?;
            let threshold = u32::try_from(role.threshold.get()).map_err(|_| foreign())?;
            draft.delegations.insert(delegate, Holders { keys, threshold });
        }
        Ok(draft)
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: TargetPath, bytes: &[u8]) {
        self.entries.insert(path, Entry::of(bytes));
    }

    /// The signed `targets`.
    ///
    /// # Errors
    /// If the draft is one that no client would accept, or a key cannot be used.
    pub async fn sign(&self, keys: &[Box<dyn KeySource>]) -> Result<SignedFile, DraftError> {
        Ok(SignedFile { name: targets_file("targets", self.version), bytes: sign(self.to_value()?, keys).await? })
    }

    /// The signed file of the delegated role `role`.
    ///
    /// # Errors
    /// If the draft is one that no client would accept, or a key cannot be used.
    pub async fn sign_as(&self, role: &Delegate, keys: &[Box<dyn KeySource>]) -> Result<SignedFile, DraftError> {
        let name = targets_file(&role.to_string(), self.version);
        Ok(SignedFile { name, bytes: sign(self.to_value()?, keys).await? })
    }

    fn to_value(&self) -> Result<Value, DraftError> {
        let mut targets = Targets::new(SPEC_VERSION.to_owned(), version(self.version)?, expires(self.expires)?);
        for (path, entry) in &self.entries {
            let name = TargetName::new(path.as_str()).map_err(|e| value(path, e))?;
            let hashes = Hashes { sha256: entry.digest.as_bytes().to_vec().into(), _extra: HashMap::new() };
            let target = Target { length: entry.size, hashes, custom: HashMap::new(), _extra: HashMap::new() };
            targets.targets.insert(name, target);
        }
        targets.delegations = None;
        if !self.delegations.is_empty() {
            let mut delegations = Delegations::new();
            for (delegate, holders) in &self.delegations {
                delegations.keys.extend(holders.keys.iter().map(|key| (key.raw_id().clone(), key.key().clone())));
                delegations.roles.push(DelegatedRole {
                    name: delegate.to_string(),
                    keyids: holders.keys.iter().map(|key| key.raw_id().clone()).collect(),
                    threshold: threshold(&delegate.to_string(), holders)?,
                    paths: paths(delegate)?,
                    terminating: true,
                    targets: None,
                });
            }
            targets.delegations = Some(delegations);
        }
        to_value("targets", &targets)
    }
}

fn paths(delegate: &Delegate) -> Result<PathSet, DraftError> {
    let pattern = delegate.pattern();
    Ok(PathSet::Paths(vec![PathPattern::new(&pattern).map_err(|e| value(&pattern, e))?]))
}

fn threshold(role: &str, holders: &Holders) -> Result<NonZeroU64, DraftError> {
    let refuse = || DraftError::Holders { role: role.to_owned() };
    let distinct: std::collections::BTreeSet<_> = holders.keys.iter().map(PublicKey::id).collect();
    let enough = usize::try_from(holders.threshold).is_ok_and(|threshold| threshold <= distinct.len());
    if !enough || distinct.len() != holders.keys.len() {
        return Err(refuse());
    }
    NonZeroU64::new(holders.threshold.into()).ok_or_else(refuse)
}

pub(super) fn version(version: u64) -> Result<NonZeroU64, DraftError> {
    NonZeroU64::new(version).ok_or(DraftError::Version)
}

pub(super) fn expires(time: UnixSeconds) -> Result<jiff::Timestamp, DraftError> {
    let seconds = i64::try_from(time.0).map_err(|_| DraftError::Expires(time))?;
    jiff::Timestamp::from_second(seconds).map_err(|_| DraftError::Expires(time))
}

pub(super) fn to_value(what: &str, role: &impl Serialize) -> Result<Value, DraftError> {
    serde_json::to_value(role).map_err(|e| value(what, e))
}

fn value(what: impl ToString, source: impl std::error::Error + Send + Sync + 'static) -> DraftError {
    DraftError::Value { what: what.to_string(), source: Box::new(source) }
}
