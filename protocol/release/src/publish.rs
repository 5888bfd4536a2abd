//! What the service makes of uploaded metadata: all of it is what every device would accept, or none of it is stored. Never signs a
//! release, and never looks at a disk or clock.

use std::collections::{BTreeMap, BTreeSet};

use protocol_types::{Digest, Reason, ReasonCode, TargetPath, UnixSeconds};
use tough::schema::{RoleType, Root, Snapshot, Targets, Timestamp};

use crate::{
    document::Release,
    metadata::{Delegate, Metadata, Signers, TIMESTAMP_FILE, Trusted, root_file, targets_file},
    signing::{OnlineDraft, OnlineFiles, SignedFile},
    workflow::{delegation, has_digest, listed, rotated, stands_in_its_role, unexpired},
};

/// The newest metadata of one account's repository, as the service has it.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    root: Option<Trusted<Root>>,
    targets: Option<Trusted<Targets>>,
    delegated: BTreeMap<Delegate, Trusted<Targets>>,
    last_snapshot: u64,
    last_timestamp: u64,
}

/// An upload that may be stored.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The repository with the upload in it. Sign its [`Repository::online`], ask [`Repository::check_online`], store
    /// [`Accepted::files`], then the snapshot, then the timestamp: until the last one is in its place, devices see the repository as it was.
    pub repository: Repository,
    /// The uploaded files that are not stored yet.
    pub files: Vec<SignedFile>,
    /// Every artifact that the repository lists. Each must be stored, with this digest and size, before a device asks for it.
    pub artifacts: Vec<ListedArtifact>,
}

/// One artifact that `targets` or a delegated role lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedArtifact {
    /// Its target path.
    pub path: TargetPath,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// How long what the service signs shall hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of a snapshot, in seconds.
    pub snapshot_s: u64,
    /// Of a timestamp, in seconds. Short: devices take it as a bound for the present.
    pub timestamp_s: u64,
}

impl Repository {
    /// The repository of an account that has published nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads back what the service stored, from file names and bytes in any order; older versions of a role are passed over.
    ///
    /// # Errors
    /// If a file is not what its name says.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Reason> {
        let mut newest: BTreeMap<&str, (u64, &str, &[u8])> = BTreeMap::new();
        let mut repository = Self::empty();
        for (name, bytes) in files {
            if name == TIMESTAMP_FILE {
                repository.last_timestamp = Trusted::<Timestamp>::read_unverified(name, bytes)?.version();
                continue;
            }
            let (version, role) = split_name(name).ok_or_else(|| foreign(name))?;
            if newest.get(role).is_none_or(|(seen, ..)| *seen < version) {
                newest.insert(role, (version, name, bytes));
            }
        }
        for (role, (version, name, bytes)) in newest {
            match role {
                "root" => repository.root = Some(stored(name, bytes, version)?),
                "snapshot" => repository.last_snapshot = stored::<Snapshot>(name, bytes, version)?.version(),
                "targets" => repository.targets = Some(stored(name, bytes, version)?),
                delegate => {
                    let delegate = delegate.parse().map_err(|_| foreign(name))?;
                    repository.delegated.insert(delegate, stored(name, bytes, version)?);
                }
            }
        }
        Ok(repository)
    }

    /// The version of the newest root; `None` before the first.
    pub fn root_version(&self) -> Option<u64> {
        self.root.as_ref().map(Trusted::version)
    }

    /// The text of the newest root.
    pub fn root(&self) -> Option<&[u8]> {
        self.root.as_ref().map(|root| root.text().as_bytes())
    }

    /// The text of the newest targets.
    pub fn targets(&self) -> Option<&[u8]> {
        self.targets.as_ref().map(|targets| targets.text().as_bytes())
    }

    /// What snapshot and timestamp shall say at `now`: sign it after each upload, and again well before the timestamp expires.
    ///
    /// # Errors
    /// If there are no targets yet.
    pub fn online(&self, now: UnixSeconds, lifetimes: Lifetimes) -> Result<OnlineDraft, Reason> {
        let Some(targets) = &self.targets else {
            return Err(Reason::new(ReasonCode::NotFound, "the repository has no targets yet"));
        };
        let file = |file: &Trusted<Targets>| (file.version(), file.text().as_bytes().to_vec());
        let mut files = BTreeMap::from([("targets.json".to_owned(), file(targets))]);
        files.extend(self.delegated.iter().map(|(role, delegated)| (format!("{role}.json"), file(delegated))));
        Ok(OnlineDraft {
            now,
            last_snapshot: self.last_snapshot,
            last_timestamp: self.last_timestamp,
            snapshot_expires: UnixSeconds(now.0.saturating_add(lifetimes.snapshot_s)),
            timestamp_expires: UnixSeconds(now.0.saturating_add(lifetimes.timestamp_s)),
            files,
        })
    }

    /// Refuses what the service signed if a device would: the root must name the keys that it signed with.
    ///
    /// # Errors
    /// With the code that a device would refuse it with.
    pub fn check_online(&self, files: &OnlineFiles) -> Result<(), Reason> {
        let none = || Reason::new(ReasonCode::NotFound, "the repository has no root yet");
        let root = self.root.as_ref().ok_or_else(none)?;
        let (snapshot, timestamp) = (&files.snapshot, &files.timestamp);
        let signers = root.signers(&snapshot.name, RoleType::Snapshot)?;
        Trusted::<Snapshot>::verify(&snapshot.name, &snapshot.bytes, &signers)?;
        let signers = root.signers(&timestamp.name, RoleType::Timestamp)?;
        Trusted::<Timestamp>::verify(&timestamp.name, &timestamp.bytes, &signers)?;
        Ok(())
    }

    /// Reads a release document that the repository lists, and checks that each component stands in its role, so that whoever
    /// publishes hears of a mistake before a device does.
    ///
    /// # Errors
    /// With the code that a device would refuse it with.
    pub fn release(&self, bytes: &[u8]) -> Result<Release, Reason> {
        let release = Release::parse(bytes)?;
        let path = release.target_path()?;
        let not_listed =
            || Reason::new(ReasonCode::NotInTargets, format!("the targets do not list `{path}` with these bytes"));
        let targets = self.targets.as_ref().ok_or_else(not_listed)?.role();
        listed(targets, &path).filter(|target| has_digest(target, Digest::of(bytes))).ok_or_else(not_listed)?;
        for component in &release.components {
            let file = component.delegate().and_then(|role| self.delegated.get(&role));
            stands_in_its_role(component, targets, file.map(Trusted::role))?;
        }
        Ok(release)
    }

    /// Everything that the repository lists, each artifact and path once.
    pub fn artifacts(&self) -> Vec<ListedArtifact> {
        let mut listed = BTreeSet::new();
        for file in self.targets.iter().chain(self.delegated.values()) {
            for (name, target) in &file.role().targets {
                let digest = <[u8; 32]>::try_from(target.hashes.sha256.as_ref());
                // What no release can name is of no use to a device, hence not asked for.
                if let (Ok(path), Ok(digest)) = (TargetPath::new(name.raw()), digest) {
                    listed.insert(ListedArtifact { path, digest: Digest::from_bytes(digest), size: target.length });
                }
            }
        }
        listed.into_iter().collect()
    }
}

/// Judges an upload: any number of roots, `targets` and files of delegated roles, by file name. `now` is the time of the service.
///
/// # Errors
/// With the code that a device would refuse the repository with, if the upload were stored.
pub fn admit(current: &Repository, upload: &BTreeMap<String, Vec<u8>>, now: UnixSeconds) -> Result<Accepted, Reason> {
    let mut sorted = Upload::sort(upload)?;
    let mut next = Accepted { repository: current.clone(), files: Vec::new(), artifacts: Vec::new() };
    for (version, bytes) in std::mem::take(&mut sorted.roots) {
        next.take_root(version, bytes)?;
    }
    let Some(root) = next.repository.root.clone() else {
        return Err(Reason::new(ReasonCode::NotFound, "the first upload must bring a root"));
    };
    if next.files.iter().any(|file| file.name == root_file(root.version())) {
        unexpired("the newest root", &root, now)?;
    }
    let targets = next.take_targets(&root, sorted.targets, now)?;
    for (role, file) in sorted.delegated.into_iter().filter_map(|(role, file)| Some((role, file?))) {
        next.take_delegated(&targets, role, file, now)?;
    }
    // A change of keys must not leave files behind that nobody can verify any more.
    for (role, file) in &next.repository.delegated {
        if let Some((delegations, delegated)) = delegation(targets.role(), role) {
            let name = targets_file(&role.to_string(), file.version());
            Trusted::<Targets>::verify(&name, file.text().as_bytes(), &Signers::of_delegation(delegations, delegated))?;
        }
    }
    next.artifacts = next.repository.artifacts();
    Ok(next)
}

/// An upload by kind of file: every root, and the newest file of each other role.
#[derive(Default)]
struct Upload<'a> {
    roots: BTreeMap<u64, &'a [u8]>,
    targets: Option<(u64, &'a [u8])>,
    delegated: BTreeMap<Delegate, Option<(u64, &'a [u8])>>,
}

/// A snapshot names one version of a role, so older ones in the same upload are of no use to anybody.
fn keep_newest<'a>(kept: &mut Option<(u64, &'a [u8])>, version: u64, bytes: &'a [u8]) {
    if kept.is_none_or(|(newest, _)| newest < version) {
        *kept = Some((version, bytes));
    }
}

impl<'a> Upload<'a> {
    fn sort(files: &'a BTreeMap<String, Vec<u8>>) -> Result<Self, Reason> {
        let mut sorted = Self::default();
        for (name, bytes) in files {
            let (version, role) = split_name(name).ok_or_else(|| foreign(name))?;
            match role {
                "root" => _ = sorted.roots.insert(version, bytes),
                "targets" => keep_newest(&mut sorted.targets, version, bytes),
                delegate => {
                    let delegate = delegate.parse().map_err(|_| foreign(name))?;
                    keep_newest(sorted.delegated.entry(delegate).or_default(), version, bytes);
                }
            }
        }
        Ok(sorted)
    }
}

impl Accepted {
    fn take_root(&mut self, version: u64, bytes: &[u8]) -> Result<(), Reason> {
        let name = root_file(version);
        let Some(current) = &self.repository.root else {
            let first = Trusted::self_signed(&name, bytes)?;
            same_version(&name, version, first.version())?;
            self.repository.root = Some(first);
            self.keep(name, bytes);
            return Ok(());
        };
        if version < current.version() {
            return Ok(()); // Stored long ago, and its successors with it.
        }
        if version == current.version() {
            return unchanged(&name, current, bytes);
        }
        let next = current.successor(&name, bytes)?;
        // Devices forget what the old keys signed, so a fast-forwarded version need not be exceeded any more.
        if [RoleType::Snapshot, RoleType::Timestamp].iter().any(|role| rotated(current.role(), next.role(), *role)) {
            (self.repository.last_snapshot, self.repository.last_timestamp) = (0, 0);
        }
        self.repository.root = Some(next);
        self.keep(name, bytes);
        Ok(())
    }

    fn take_targets(
        &mut self,
        root: &Trusted<Root>,
        uploaded: Option<(u64, &[u8])>,
        now: UnixSeconds,
    ) -> Result<Trusted<Targets>, Reason> {
        let signers = root.signers("targets", RoleType::Targets)?;
        let current = self.repository.targets.take();
        let targets = match (uploaded, current) {
            (Some(file), current) => self.take_newer("targets", file, &signers, (current.as_ref(), now))?,
            (None, Some(current)) => {
                let name = targets_file("targets", current.version());
                Trusted::verify(&name, current.text().as_bytes(), &signers)?
            }
            (None, None) => return Err(Reason::new(ReasonCode::NotFound, "the first upload must bring targets")),
        };
        self.repository.targets = Some(targets.clone());
        Ok(targets)
    }

    fn take_delegated(
        &mut self,
        targets: &Trusted<Targets>,
        role: Delegate,
        file: (u64, &[u8]),
        now: UnixSeconds,
    ) -> Result<(), Reason> {
        let Some((delegations, delegated)) = delegation(targets.role(), &role) else {
            let text = format!("the targets delegate nothing to the role `{role}`");
            return Err(Reason::new(ReasonCode::NotDelegated, text));
        };
        let signers = Signers::of_delegation(delegations, delegated);
        let current = self.repository.delegated.remove(&role);
        let newer = self.take_newer(&role.to_string(), file, &signers, (current.as_ref(), now))?;
        self.repository.delegated.insert(role, newer);
        Ok(())
    }

    /// Verifies an uploaded file of the kind `targets` against the one it replaces.
    fn take_newer(
        &mut self,
        role: &str,
        (version, bytes): (u64, &[u8]),
        signers: &Signers<'_>,
        (current, now): (Option<&Trusted<Targets>>, UnixSeconds),
    ) -> Result<Trusted<Targets>, Reason> {
        let name = targets_file(role, version);
        let new = Trusted::<Targets>::verify(&name, bytes, signers)?;
        same_version(&name, version, new.version())?;
        match current {
            Some(current) if new.version() < current.version() => {
                let text = format!("{name} is older than version {}, which is published", current.version());
                return Err(Reason::new(ReasonCode::MetadataRollback, text));
            }
            Some(current) if new.version() == current.version() => unchanged(&name, current, bytes)?,
            _ => {
                unexpired(&name, &new, now)?;
                self.keep(name, bytes);
            }
        }
        Ok(new)
    }

    fn keep(&mut self, name: String, bytes: &[u8]) {
        self.files.push(SignedFile { name, bytes: bytes.to_vec() });
    }
}

/// `3.targets.json` is version 3 of `targets`.
fn split_name(name: &str) -> Option<(u64, &str)> {
    let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
    let canonical = version.bytes().all(|b| b.is_ascii_digit()) && !version.starts_with('0');
    Some((version.parse().ok().filter(|_| canonical)?, role))
}

fn stored<R: Metadata>(name: &str, bytes: &[u8], version: u64) -> Result<Trusted<R>, Reason> {
    let file = Trusted::read_unverified(name, bytes)?;
    same_version(name, version, file.version())?;
    Ok(file)
}

fn same_version(name: &str, named: u64, found: u64) -> Result<(), Reason> {
    if named == found {
        return Ok(());
    }
    Err(Reason::new(ReasonCode::MixAndMatch, format!("{name} holds version {found}")))
}

/// A file that is published is never replaced by another of the same version.
fn unchanged<R: tough::schema::Role>(name: &str, current: &Trusted<R>, bytes: &[u8]) -> Result<(), Reason> {
    if current.text().as_bytes() == bytes {
        return Ok(());
    }
    Err(Reason::new(ReasonCode::MetadataRollback, format!("{name} is published already, with other content")))
}

fn foreign(name: &str) -> Reason {
    Reason::new(ReasonCode::MalformedMetadata, format!("`{name}` is no metadata file that belongs here"))
}
