//! Whether one more file may join the trusted state (TUF specification, sections 5.3 to 5.6): signatures, rollback, mix-and-match.
//! Never asks for a file; a refused one leaves the state as it was.

use std::collections::HashMap;

use protocol_types::{Reason, ReasonCode, UnixSeconds};
use tough::schema::{DelegatedRole, Delegations, Metafile, RoleType, Root, Snapshot, Targets, Timestamp};

use super::{TrustedState, expected::Expected};
use crate::metadata::{Delegate, Signers, TIMESTAMP_FILE, Trusted, root_file};

impl TrustedState {
    /// The name of the root that would follow the trusted one.
    pub(crate) fn next_root(&self) -> String {
        root_file(self.root.version().saturating_add(1))
    }

    /// Takes the next root (section 5.3).
    pub(crate) fn accept_root(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let next = self.root.successor(&self.next_root(), bytes)?;
        let rotated = |role| rotated(self.root.role(), next.role(), role);
        // Section 5.3.11: forgetting what the old keys signed is how a repository recovers from a fast-forward attack.
        if rotated(RoleType::Timestamp) || rotated(RoleType::Snapshot) {
            (self.timestamp, self.snapshot) = (None, None);
            self.seen = UnixSeconds::default();
        }
        if rotated(RoleType::Targets) {
            self.targets = None;
            self.delegated.clear();
        }
        self.root = next;
        Ok(())
    }

    /// Takes the newest timestamp (section 5.4). One with the version that is trusted already changes nothing.
    pub(crate) fn accept_timestamp(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let signers = self.root.signers(TIMESTAMP_FILE, RoleType::Timestamp)?;
        let new = Trusted::<Timestamp>::verify(TIMESTAMP_FILE, bytes, &signers)?;
        if let Some(old) = &self.timestamp {
            not_lower(TIMESTAMP_FILE, old.version(), new.version())?;
            if old.version() == new.version() {
                return Ok(());
            }
            none_lower(&old.role().meta, &new.role().meta)?;
        }
        self.timestamp = Some(new);
        Ok(())
    }

    /// The snapshot that the trusted timestamp names.
    pub(crate) fn expected_snapshot(&self) -> Result<Expected, Reason> {
        let timestamp = self.timestamp.as_ref().ok_or_else(|| missing("timestamp"))?;
        Expected::of(&timestamp.role().meta, "snapshot.json")
    }

    /// Whether the stored snapshot is `expected`.
    pub(crate) fn has_snapshot(&self, expected: &Expected) -> bool {
        self.snapshot
            .as_ref()
            .is_some_and(|s| s.version() == expected.version && expected.admit(s.text().as_bytes()).is_ok())
    }

    /// Takes the snapshot that the timestamp names (section 5.5).
    pub(crate) fn accept_snapshot(&mut self, expected: &Expected, bytes: &[u8]) -> Result<(), Reason> {
        expected.admit(bytes)?;
        let signers = self.root.signers(&expected.name, RoleType::Snapshot)?;
        let new = Trusted::<Snapshot>::verify(&expected.name, bytes, &signers)?;
        expected.same_version(new.version())?;
        if let Some(old) = &self.snapshot {
            not_lower(&expected.name, old.version(), new.version())?;
            none_lower(&old.role().meta, &new.role().meta)?;
        }
        self.snapshot = Some(new);
        Ok(())
    }

    /// The file of `role` (`targets` or a delegated one) that the trusted snapshot names.
    pub(crate) fn expected_targets(&self, role: &str) -> Result<Expected, Reason> {
        let snapshot = self.snapshot.as_ref().ok_or_else(|| missing("snapshot"))?;
        Expected::of(&snapshot.role().meta, &format!("{role}.json"))
    }

    /// Whether the stored targets are `expected` and still hold at `time`.
    pub(crate) fn has_targets(&self, expected: &Expected, time: UnixSeconds) -> bool {
        self.targets.as_ref().is_some_and(|targets| is_current(targets, expected, time))
    }

    /// Takes the targets that the snapshot names (section 5.6).
    pub(crate) fn accept_targets(
        &mut self,
        expected: &Expected,
        bytes: &[u8],
        time: UnixSeconds,
    ) -> Result<(), Reason> {
        let signers = self.root.signers(&expected.name, RoleType::Targets)?;
        let new = fresh_targets(expected, bytes, &signers, time)?;
        if let Some(old) = &self.targets {
            not_lower(&expected.name, old.version(), new.version())?;
        }
        // A delegated role whose keys changed, or which is gone, starts afresh as a top-level role does after a rotation.
        if let Some(old) = &self.targets {
            self.delegated.retain(|name, _| match (delegation(old.role(), name), delegation(new.role(), name)) {
                (Some((a, old)), Some((b, new))) => {
                    Signers::of_delegation(a, old).identity() == Signers::of_delegation(b, new).identity()
                }
                _ => false,
            });
        }
        self.targets = Some(new);
        Ok(())
    }

    /// Whether the stored file of `role` is `expected` and still holds at `time`.
    pub(crate) fn has_delegated(&self, role: &Delegate, expected: &Expected, time: UnixSeconds) -> bool {
        self.delegated.get(role).is_some_and(|targets| is_current(targets, expected, time))
    }

    /// Takes the file of a delegated role that the snapshot names (section 5.6.7).
    pub(crate) fn accept_delegated(
        &mut self,
        role: &Delegate,
        expected: &Expected,
        bytes: &[u8],
        time: UnixSeconds,
    ) -> Result<(), Reason> {
        let targets = self.targets.as_ref().ok_or_else(|| missing("targets"))?;
        let (delegations, found) = delegation(targets.role(), role).ok_or_else(|| {
            Reason::new(ReasonCode::NotDelegated, format!("the targets delegate nothing to the role `{role}`"))
        })?;
        let new = fresh_targets(expected, bytes, &Signers::of_delegation(delegations, found), time)?;
        if let Some(old) = self.delegated.get(role) {
            not_lower(&expected.name, old.version(), new.version())?;
        }
        self.delegated.insert(role.clone(), new);
        Ok(())
    }
}

/// The delegation to `role`.
pub(crate) fn delegation<'a>(targets: &'a Targets, role: &Delegate) -> Option<(&'a Delegations, &'a DelegatedRole)> {
    let delegations = targets.delegations.as_ref()?;
    let name = role.to_string();
    Some((delegations, delegations.roles.iter().find(|delegated| delegated.name == name)?))
}

/// Verifies a file of the kind `targets` up to, and including, its expiry.
fn fresh_targets(
    expected: &Expected,
    bytes: &[u8],
    signers: &Signers<'_>,
    time: UnixSeconds,
) -> Result<Trusted<Targets>, Reason> {
    expected.admit(bytes)?;
    let new = Trusted::verify(&expected.name, bytes, signers)?;
    expected.same_version(new.version())?;
    unexpired(&expected.name, &new, time)?;
    Ok(new)
}

fn is_current(stored: &Trusted<Targets>, expected: &Expected, time: UnixSeconds) -> bool {
    stored.version() == expected.version && expected.admit(stored.text().as_bytes()).is_ok() && !stored.expired(time)
}

/// Refuses what has expired, for the roles that the account's officers sign.
pub(crate) fn unexpired<R: tough::schema::Role>(
    what: &str,
    file: &Trusted<R>,
    time: UnixSeconds,
) -> Result<(), Reason> {
    if !file.expired(time) {
        return Ok(());
    }
    let text = format!("{what} expired at {}, the time is {time}", file.expires());
    Err(Reason::new(ReasonCode::MetadataExpired, text))
}

/// Whether a role has other keys, or another threshold, in `new`.
pub(crate) fn rotated(old: &Root, new: &Root, role: RoleType) -> bool {
    Signers::of_root(old, role).map(|s| s.identity()) != Signers::of_root(new, role).map(|s| s.identity())
}

fn not_lower(what: &str, trusted: u64, found: u64) -> Result<(), Reason> {
    if found >= trusted {
        return Ok(());
    }
    let text = format!("{what} has version {found}, version {trusted} is trusted already");
    Err(Reason::new(ReasonCode::MetadataRollback, text))
}

/// Every file that was named must still be named, with at least its version (sections 5.4.3 and 5.5.5).
fn none_lower(old: &HashMap<String, Metafile>, new: &HashMap<String, Metafile>) -> Result<(), Reason> {
    for (name, trusted) in old {
        let Some(found) = new.get(name) else {
            let text = format!("`{name}` is no longer named, version {} of it is trusted already", trusted.version);
            return Err(Reason::new(ReasonCode::MetadataRollback, text));
        };
        not_lower(name, trusted.version.get(), found.version.get())?;
    }
    Ok(())
}

/// The stages of a check come in an order in which this cannot happen.
fn missing(what: &str) -> Reason {
    Reason::new(ReasonCode::Internal, format!("the {what} is asked for before it was accepted"))
}
