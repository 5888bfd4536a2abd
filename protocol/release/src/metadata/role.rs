//! The signed part of each kind of metadata file, checked for form, and the proof that one was accepted.

use std::collections::BTreeSet;

use protocol_types::{Reason, ReasonCode, UnixSeconds};
use serde::de::DeserializeOwned;
use tough::schema::{Role, RoleType, Root, Snapshot, Targets, Timestamp};

use super::{Envelope, Signers};

/// The signed part of one kind of metadata file.
pub(crate) trait Metadata: Role + DeserializeOwned {
    /// `_type` in the signed part (TUF specification, section 4).
    const TYPE_NAME: &'static str;

    /// The version of the specification that the file names.
    fn spec_version(&self) -> &str;

    /// Rules of form that the types do not carry.
    fn check(&self) -> Result<(), &'static str>;
}

impl Metadata for Root {
    const TYPE_NAME: &'static str = "root";

    fn spec_version(&self) -> &str {
        &self.spec_version
    }

    fn check(&self) -> Result<(), &'static str> {
        if !self.consistent_snapshot {
            return Err("`consistent_snapshot` must be true");
        }
        for role in [RoleType::Root, RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp] {
            if !Signers::of_root(self, role).is_some_and(|signers| signers.can_sign()) {
                return Err("a top-level role is missing or names fewer keys than its threshold");
            }
        }
        Ok(())
    }
}

impl Metadata for Timestamp {
    const TYPE_NAME: &'static str = "timestamp";

    fn spec_version(&self) -> &str {
        &self.spec_version
    }

    fn check(&self) -> Result<(), &'static str> {
        let alone = self.meta.len() == 1 && self.meta.contains_key("snapshot.json");
        if alone { Ok(()) } else { Err("`meta` must name `snapshot.json` alone") }
    }
}

impl Metadata for Snapshot {
    const TYPE_NAME: &'static str = "snapshot";

    fn spec_version(&self) -> &str {
        &self.spec_version
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.meta.contains_key("targets.json") { Ok(()) } else { Err("`meta` must name `targets.json`") }
    }
}

impl Metadata for Targets {
    const TYPE_NAME: &'static str = "targets";

    fn spec_version(&self) -> &str {
        &self.spec_version
    }

    fn check(&self) -> Result<(), &'static str> {
        let roles = self.delegations.as_ref().map(|delegations| delegations.roles.as_slice()).unwrap_or_default();
        let names: BTreeSet<&str> = roles.iter().map(|role| role.name.as_str()).collect();
        if names.len() != roles.len() {
            return Err("two delegations have one name");
        }
        if ["root", "targets", "snapshot", "timestamp"].iter().any(|name| names.contains(name)) {
            return Err("a delegation has the name of a top-level role");
        }
        Ok(())
    }
}

/// Metadata that was verified, with the text it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Trusted<R> {
    text: String,
    role: R,
}

impl<R: Metadata> Trusted<R> {
    /// Verifies `bytes` against `signers` and reads the signed part. `what` names the file in refusals.
    pub(crate) fn verify(what: &str, bytes: &[u8], signers: &Signers<'_>) -> Result<Self, Reason> {
        let envelope = Envelope::parse(what, bytes)?;
        envelope.verify(what, signers)?;
        Self::read(what, bytes, &envelope)
    }

    /// Reads the signed part of a file that was verified before it was stored, or that is only to be edited.
    pub(crate) fn read_unverified(what: &str, bytes: &[u8]) -> Result<Self, Reason> {
        Self::read(what, bytes, &Envelope::parse(what, bytes)?)
    }

    fn read(what: &str, bytes: &[u8], envelope: &Envelope) -> Result<Self, Reason> {
        let malformed = |why: &str| Reason::new(ReasonCode::MalformedMetadata, format!("{what}: {why}"));
        let signed = envelope.signed();
        if signed.get("_type").and_then(|kind| kind.as_str()) != Some(R::TYPE_NAME) {
            return Err(malformed(&format!("`_type` is not `{}`", R::TYPE_NAME)));
        }
        let role = R::deserialize(signed).map_err(|e| malformed(&e.to_string()))?;
        if !role.spec_version().starts_with("1.") {
            return Err(malformed("`spec_version` is not 1"));
        }
        role.check().map_err(malformed)?;
        // It was read as JSON, hence it is UTF-8.
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| malformed("not UTF-8"))?;
        Ok(Self { text, role })
    }
}

impl Trusted<Root> {
    /// Reads a root that is trusted because of where it came from, and checks that its own keys signed it.
    pub(crate) fn self_signed(what: &str, bytes: &[u8]) -> Result<Self, Reason> {
        let envelope = Envelope::parse(what, bytes)?;
        let root = Self::read(what, bytes, &envelope)?;
        envelope.verify(what, &root.signers(what, RoleType::Root)?)?;
        Ok(root)
    }

    /// Reads the successor of this root (TUF specification, sections 5.3.4 and 5.3.5): signed by a threshold of the keys of both,
    /// and exactly one version later.
    pub(crate) fn successor(&self, what: &str, bytes: &[u8]) -> Result<Self, Reason> {
        let envelope = Envelope::parse(what, bytes)?;
        let next = Self::read(what, bytes, &envelope)?;
        for root in [self, &next] {
            envelope.verify(what, &root.signers(what, RoleType::Root)?)?;
        }
        let (old, new) = (self.version(), next.version());
        if new <= old {
            let text = format!("{what} has version {new}, version {old} is trusted already");
            return Err(Reason::new(ReasonCode::MetadataRollback, text));
        }
        if Some(new) != old.checked_add(1) {
            let text = format!("{what} has version {new}, the one after {old} was asked for");
            return Err(Reason::new(ReasonCode::MixAndMatch, text));
        }
        Ok(next)
    }

    /// The keys of a top-level role.
    pub(crate) fn signers(&self, what: &str, role: RoleType) -> Result<Signers<'_>, Reason> {
        Signers::of_root(&self.role, role)
            .ok_or_else(|| Reason::new(ReasonCode::MalformedMetadata, format!("{what}: the root names no such role")))
    }
}

impl<R: Role> Trusted<R> {
    pub(crate) fn role(&self) -> &R {
        &self.role
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn version(&self) -> u64 {
        self.role.version().get()
    }

    /// Whether it had expired at `time` (TUF specification, section 5.3.10: the expiry must be higher than the time).
    pub(crate) fn expired(&self, time: UnixSeconds) -> bool {
        u64::try_from(self.role.expires().as_second()).map_or(true, |expires| expires <= time.0)
    }

    /// When it expires, zero if that lies before 1970.
    pub(crate) fn expires(&self) -> UnixSeconds {
        UnixSeconds(u64::try_from(self.role.expires().as_second()).unwrap_or(0))
    }
}
