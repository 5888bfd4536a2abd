//! One check of a wish: which file to ask for next, and what an answer means for the state. Never performs a request.

use std::collections::BTreeSet;

use protocol_types::{Digest, Reason, ReasonCode, TargetPath, UnixSeconds, socket::FetchError};
use tough::schema::Targets;

use super::{
    Clock, Device, TrustedState, VerifiedOs, VerifiedRelease, Warning,
    accept::unexpired,
    expected::{Expected, admit_artifact},
    listing::{has_digest, listed, stands_in_its_role},
};
use crate::{
    document::{Component, OsIndex, Release},
    metadata::{Delegate, MAX_METADATA_BYTES, MAX_ROOTS_A_CHECK, TIMESTAMP_FILE},
};

/// What a device is asked to run: a choice among signed releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Path of the release in the targets.
    pub release: TargetPath,
    /// Digest of the release document.
    pub digest: Digest,
}

/// What the caller must now do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch a metadata file and hand it to [`Check::answer`].
    FetchMetadata {
        /// Its name in the repository.
        name: String,
        /// More bytes than this are [`FetchError::TooLong`].
        max_bytes: u32,
    },
    /// Fetch an artifact, a small one, and hand it to [`Check::answer`].
    FetchArtifact {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes, at most 64 KiB.
        size: u64,
    },
    /// The release may be installed.
    Verified(Box<VerifiedRelease>),
    /// The release may not be installed; nothing else follows.
    Refused(Reason),
}

/// What the next answer is.
#[derive(Debug)]
enum Awaited {
    Root { walked: u32 },
    Timestamp,
    Snapshot(Expected),
    Targets(Expected),
    Document { size: u64 },
    Delegated { role: Delegate, expected: Expected, release: Release },
    Index { component: Component, release: Release },
    Nothing,
}

/// One check under way.
#[derive(Debug)]
pub struct Check {
    state: TrustedState,
    wish: Wish,
    device: Device,
    clock: Clock,
    warnings: Vec<Warning>,
    awaited: Awaited,
}

impl Check {
    /// Begins to check `wish` against what `state` trusts.
    pub fn begin(state: TrustedState, wish: Wish, device: Device, clock: Clock) -> (Self, Step) {
        let warnings = clock.warning(state.seen).into_iter().collect();
        let step = Step::FetchMetadata { name: state.next_root(), max_bytes: MAX_METADATA_BYTES };
        (Self { state, wish, device, clock, warnings, awaited: Awaited::Root { walked: 0 } }, step)
    }

    /// Takes the answer to the last step and returns the next. A refusal is final; it changed nothing in the state beyond
    /// the newer, valid metadata that came before it.
    pub fn answer(&mut self, answer: Result<Vec<u8>, FetchError>) -> Step {
        let awaited = std::mem::replace(&mut self.awaited, Awaited::Nothing);
        self.take(awaited, answer).unwrap_or_else(|reason| {
            self.awaited = Awaited::Nothing;
            Step::Refused(reason)
        })
    }

    /// What has been validated so far; make it durable before acting on a step that follows from it.
    pub fn state(&self) -> &TrustedState {
        &self.state
    }

    /// The state, once the check is over.
    pub fn into_state(self) -> TrustedState {
        self.state
    }

    /// What an operator should hear of.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    fn take(&mut self, awaited: Awaited, answer: Result<Vec<u8>, FetchError>) -> Result<Step, Reason> {
        match awaited {
            Awaited::Root { walked } => self.take_root(walked, answer),
            Awaited::Timestamp => self.take_timestamp(&brought(TIMESTAMP_FILE, answer)?),
            Awaited::Snapshot(expected) => {
                self.state.accept_snapshot(&expected, &brought(&expected.name, answer)?)?;
                self.after_snapshot()
            }
            Awaited::Targets(expected) => {
                let time = self.time();
                self.state.accept_targets(&expected, &brought(&expected.name, answer)?, time)?;
                self.after_targets()
            }
            Awaited::Document { size } => self.take_document(size, answer),
            Awaited::Delegated { role, expected, release } => {
                let time = self.time();
                self.state.accept_delegated(&role, &expected, &brought(&expected.name, answer)?, time)?;
                self.next_delegated(release)
            }
            Awaited::Index { component, release } => self.take_index(component, release, answer),
            Awaited::Nothing => Err(Reason::new(ReasonCode::Internal, "the check is over")),
        }
    }

    /// Section 5.3: one root after the other, until there is no next one.
    fn take_root(&mut self, walked: u32, answer: Result<Vec<u8>, FetchError>) -> Result<Step, Reason> {
        match answer {
            Err(FetchError::NotFound) => return self.after_roots(),
            answer => self.state.accept_root(&brought(&self.state.next_root(), answer)?)?,
        }
        let walked = walked + 1;
        if walked >= MAX_ROOTS_A_CHECK {
            return self.after_roots();
        }
        self.awaited = Awaited::Root { walked };
        Ok(Step::FetchMetadata { name: self.state.next_root(), max_bytes: MAX_METADATA_BYTES })
    }

    fn after_roots(&mut self) -> Result<Step, Reason> {
        unexpired("the newest root", &self.state.root, self.time())?;
        self.awaited = Awaited::Timestamp;
        Ok(Step::FetchMetadata { name: TIMESTAMP_FILE.to_owned(), max_bytes: MAX_METADATA_BYTES })
    }

    fn take_timestamp(&mut self, bytes: &[u8]) -> Result<Step, Reason> {
        self.state.accept_timestamp(bytes)?;
        let time = self.time();
        if let Some(expired) = self.state.timestamp.as_ref().filter(|file| file.expired(time)) {
            self.warnings.push(Warning::TimestampExpired { expired: expired.expires() });
        }
        let expected = self.state.expected_snapshot()?;
        if self.state.has_snapshot(&expected) {
            return self.after_snapshot();
        }
        let step = expected.fetch()?;
        self.awaited = Awaited::Snapshot(expected);
        Ok(step)
    }

    fn after_snapshot(&mut self) -> Result<Step, Reason> {
        let time = self.time();
        if let Some(expired) = self.state.snapshot.as_ref().filter(|file| file.expired(time)) {
            self.warnings.push(Warning::SnapshotExpired { expired: expired.expires() });
        }
        let expected = self.state.expected_targets("targets")?;
        if self.state.has_targets(&expected, time) {
            return self.after_targets();
        }
        let step = expected.fetch()?;
        self.awaited = Awaited::Targets(expected);
        Ok(step)
    }

    fn after_targets(&mut self) -> Result<Step, Reason> {
        let (path, digest) = (&self.wish.release, self.wish.digest);
        let Some(target) = listed(self.targets()?, path) else {
            return Err(Reason::new(ReasonCode::NotInTargets, format!("the current targets do not list `{path}`")));
        };
        if !has_digest(target, digest) {
            let text = format!("the current targets list another `{path}` than the one with digest {digest}");
            return Err(Reason::new(ReasonCode::NotInTargets, text));
        }
        let size = target.length;
        if size > Release::MAX_BYTES as u64 {
            return Err(Reason::new(ReasonCode::Oversized, format!("`{path}` is announced with {size} bytes")));
        }
        self.awaited = Awaited::Document { size };
        Ok(Step::FetchArtifact { digest, size })
    }

    fn take_document(&mut self, size: u64, answer: Result<Vec<u8>, FetchError>) -> Result<Step, Reason> {
        let path = self.wish.release.as_str();
        let bytes = brought(path, answer)?;
        admit_artifact(path, &bytes, self.wish.digest, size)?;
        let release = Release::parse(&bytes)?;
        if release.target_path().ok().as_ref() != Some(&self.wish.release) {
            let text = format!("`{path}` holds the release with version {}", release.version);
            return Err(Reason::new(ReasonCode::MalformedRelease, text));
        }
        self.device.accept(&release, self.state.floor)?;
        self.next_delegated(release)
    }

    /// Asks for the first role that the release needs and whose current file is not stored yet.
    fn next_delegated(&mut self, release: Release) -> Result<Step, Reason> {
        let roles: BTreeSet<Delegate> = release.components.iter().filter_map(Component::delegate).collect();
        for role in roles {
            let expected = self.state.expected_targets(&role.to_string())?;
            if !self.state.has_delegated(&role, &expected, self.time()) {
                let step = expected.fetch()?;
                self.awaited = Awaited::Delegated { role, expected, release };
                return Ok(step);
            }
        }
        let targets = self.targets()?;
        for component in &release.components {
            let file = component.delegate().and_then(|role| self.state.delegated.get(&role));
            stands_in_its_role(component, targets, file.map(|file| file.role()))?;
        }
        match release.os().cloned() {
            None => Ok(self.verified(release, None)),
            Some(component) => {
                let (digest, size) = (component.digest, component.size);
                self.awaited = Awaited::Index { component, release };
                Ok(Step::FetchArtifact { digest, size })
            }
        }
    }

    fn take_index(
        &mut self,
        component: Component,
        release: Release,
        answer: Result<Vec<u8>, FetchError>,
    ) -> Result<Step, Reason> {
        let path = component.path.as_str();
        let bytes = brought(path, answer)?;
        admit_artifact(path, &bytes, component.digest, component.size)?;
        let index = OsIndex::parse(&bytes)?;
        self.device.accept_index(&component, &index)?;
        Ok(self.verified(release, Some(VerifiedOs { component, index })))
    }

    fn verified(&mut self, release: Release, os: Option<VerifiedOs>) -> Step {
        let time = self.time();
        let fresh = |expired: Option<bool>| expired == Some(false);
        if fresh(self.state.timestamp.as_ref().map(|file| file.expired(time)))
            && fresh(self.state.snapshot.as_ref().map(|file| file.expired(time)))
        {
            self.state.seen = time;
        }
        let (digest, path) = (self.wish.digest, self.wish.release.clone());
        let applications = release.applications();
        Step::Verified(Box::new(VerifiedRelease { digest, path, release, os, applications }))
    }

    fn targets(&self) -> Result<&Targets, Reason> {
        let targets = self.state.targets.as_ref().map(|targets| targets.role());
        targets.ok_or_else(|| Reason::new(ReasonCode::Internal, "the targets are asked for before they were accepted"))
    }

    fn time(&self) -> UnixSeconds {
        self.clock.judged(self.state.seen)
    }
}

fn brought(what: &str, answer: Result<Vec<u8>, FetchError>) -> Result<Vec<u8>, Reason> {
    answer.map_err(|error| error.reason(what))
}
