//! Whether what a release names stands where it must: in the role that its path belongs to. Never verifies a signature.

use protocol_types::{Digest, Reason, ReasonCode, TargetPath};
use tough::{
    TargetName,
    schema::{PathSet, Target, Targets},
};

use crate::{document::Component, metadata::matches};

/// A component must stand, with the same digest and size, in the role that its path belongs to, and that role must be the one that
/// its kind and name ask for. `delegated` is the file of that role, if there is one.
pub(crate) fn stands_in_its_role(
    component: &Component,
    targets: &Targets,
    delegated: Option<&Targets>,
) -> Result<(), Reason> {
    let path = &component.path;
    let refuse = |why: String| Err(Reason::new(ReasonCode::NotDelegated, format!("`{path}` {why}")));
    let Some(role) = component.delegate() else {
        return match listed(targets, path) {
            Some(target) if is_same(target, component) => Ok(()),
            _ => refuse("is not listed in the targets as the release names it".to_owned()),
        };
    };
    if listed(targets, path).is_some() {
        return refuse(format!("is listed by the targets themselves instead of the role `{role}`"));
    }
    // A client that searches the delegations in order must end at the same role.
    let mut roles = targets.delegations.iter().flat_map(|delegations| &delegations.roles);
    let first = roles.find(|delegated| match &delegated.paths {
        PathSet::Paths(patterns) => patterns.iter().any(|pattern| matches(pattern.value(), path.as_str())),
        PathSet::PathHashPrefixes(_) => false,
    });
    if first.is_none_or(|delegated| delegated.name != role.to_string()) {
        return refuse(format!("is not delegated to the role `{role}`"));
    }
    match delegated.and_then(|file| listed(file, path)) {
        Some(target) if is_same(target, component) => Ok(()),
        Some(_) => refuse(format!("has another digest or size in the role `{role}`")),
        None => refuse(format!("is not listed in the role `{role}`")),
    }
}

/// What a role says about `path`.
pub(crate) fn listed<'a>(targets: &'a Targets, path: &TargetPath) -> Option<&'a Target> {
    targets.targets.get(&TargetName::new(path.as_str()).ok()?)
}

/// Whether a role names these bytes.
pub(crate) fn has_digest(target: &Target, digest: Digest) -> bool {
    target.hashes.sha256.as_ref() == digest.as_bytes()
}

fn is_same(target: &Target, component: &Component) -> bool {
    has_digest(target, component.digest) && target.length == component.size
}
