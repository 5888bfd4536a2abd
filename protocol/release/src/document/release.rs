//! The release document: an immutable, signed set of components.

use std::collections::BTreeSet;

use protocol_types::{ApplicationSpec, Digest, ReadyCheck, ReleaseVersion, RunSettings, SecurityVersion, TargetPath};
use serde::{Deserialize, Serialize};

use super::{
    Component, DocumentError, FormatOne, Kind, OsIndex,
    json::{self, JsonDocument},
};

const KIND: &str = "release document";

/// A release, as signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The version of this format.
    pub format: FormatOne,
    /// The release's version; its target path is `releases/VERSION.json`.
    pub version: ReleaseVersion,
    /// Counts repaired security holes; a release below a device's floor is refused.
    pub security_version: SecurityVersion,
    /// Whether a device's floor becomes [`Release::security_version`] once the release is confirmed there.
    pub raises_floor: bool,
    /// How a trial of this release is judged.
    pub health: Health,
    /// What it consists of.
    pub components: Vec<Component>,
}

/// How the trial of a release is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Seconds after which a trial ends with a verdict at the latest.
    pub time_limit_s: u32,
    /// Seconds after which a trial during which no host at all answered ends as `no_contact`.
    pub no_contact_limit_s: u32,
}

impl Release {
    /// Upper bound for the JSON text in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The most applications in one release.
    pub const MAX_APPLICATIONS: usize = 32;
    /// The most configurations in one release.
    pub const MAX_CONFIGURATIONS: usize = 8;
    /// The longest trial, in seconds: a day.
    pub const MAX_TIME_LIMIT_S: u32 = 86_400;
    /// The longest wait for contact, in seconds: a week.
    pub const MAX_NO_CONTACT_LIMIT_S: u32 = 7 * 86_400;
    /// The longest target of an application or configuration in bytes; blobs of an application are not part of its target.
    pub const MAX_COMPONENT_BYTES: u64 = 1024 * 1024;

    /// Reads the JSON text of a release document.
    ///
    /// # Errors
    /// If it is too long, not of format 1, or breaks a rule of the format page.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        json::parse(bytes)
    }

    /// The JSON text of a release document that keeps every rule of the format page.
    ///
    /// # Errors
    /// If it breaks a rule, so that no device would accept it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        json::to_bytes(self)
    }

    /// The digest of the JSON text, which is what a wish names.
    ///
    /// # Errors
    /// As [`Release::to_bytes`].
    pub fn digest(&self) -> Result<Digest, DocumentError> {
        Ok(Digest::of(&self.to_bytes()?))
    }

    /// The target path under which this release travels.
    ///
    /// # Errors
    /// If the version holds a character that a target path may not hold (`+`, build metadata).
    pub fn target_path(&self) -> Result<TargetPath, DocumentError> {
        TargetPath::new(format!("releases/{}.json", self.version)).map_err(|e| DocumentError::rule(KIND, e.to_string()))
    }

    /// The operating system component, if there is one.
    pub fn os(&self) -> Option<&Component> {
        self.components.iter().find(|component| component.kind == Kind::Os)
    }

    /// The applications, in the order of the document.
    pub fn applications(&self) -> Vec<ApplicationSpec> {
        self.components.iter().filter_map(Component::application).collect()
    }
}

impl JsonDocument for Release {
    const KIND: &'static str = KIND;
    const LIMIT: usize = Self::MAX_BYTES;

    fn check(&self) -> Result<(), DocumentError> {
        self.target_path()?;
        self.health.check()?;
        let count = |wanted: fn(&Kind) -> bool| self.components.iter().filter(|c| wanted(&c.kind)).count();
        for (what, found, limit) in [
            ("os components", count(|kind| matches!(kind, Kind::Os)), 1),
            ("applications", count(|kind| matches!(kind, Kind::Application { .. })), Self::MAX_APPLICATIONS),
            ("configurations", count(|kind| matches!(kind, Kind::Configuration { .. })), Self::MAX_CONFIGURATIONS),
        ] {
            if found > limit {
                return Err(DocumentError::rule(KIND, format!("{found} {what}, at most {limit} are allowed")));
            }
        }
        if self.components.is_empty() {
            return Err(DocumentError::rule(KIND, "there is no component"));
        }
        // A path holds the component's name, so unique folders also mean unique names.
        let mut folders = BTreeSet::new();
        for component in &self.components {
            check_component(component)?;
            if !folders.insert(component.folder()) {
                return Err(DocumentError::rule(KIND, format!("`{}` stands twice", component.folder())));
            }
        }
        Ok(())
    }
}

impl Health {
    fn check(self) -> Result<(), DocumentError> {
        if !(1..=Release::MAX_TIME_LIMIT_S).contains(&self.time_limit_s) {
            return Err(DocumentError::rule(KIND, "`time_limit_s` must be from 1 to 86400"));
        }
        if !(self.time_limit_s..=Release::MAX_NO_CONTACT_LIMIT_S).contains(&self.no_contact_limit_s) {
            return Err(DocumentError::rule(KIND, "`no_contact_limit_s` must be from `time_limit_s` to 604800"));
        }
        Ok(())
    }
}

fn check_component(component: &Component) -> Result<(), DocumentError> {
    let path = component.path.as_str();
    let broken = |rule: &str| Err(DocumentError::rule(KIND, format!("`{path}`: {rule}")));
    let depth = path.split('/').count();
    if !path.starts_with(&component.folder()) || depth != 3 || !path.ends_with(".json") {
        return broken("the path does not fit the kind and name of the component");
    }
    let limit = if component.kind == Kind::Os { OsIndex::MAX_BYTES as u64 } else { Release::MAX_COMPONENT_BYTES };
    if component.size == 0 || component.size > limit {
        return broken(&format!("the size must be from 1 to {limit} bytes"));
    }
    if component.boards.len() > 64 || component.architectures.len() > 64 {
        return broken("at most 64 boards and 64 architectures may be named");
    }
    match &component.kind {
        Kind::Application { run, .. } => check_run(run).or_else(broken),
        Kind::Os | Kind::Configuration { .. } => Ok(()),
    }
}

fn check_run(run: &RunSettings) -> Result<(), &'static str> {
    if run.memory_bytes == 0 || run.pids == 0 {
        return Err("`memory_bytes` and `pids` must be at least 1");
    }
    match &run.ready {
        None => Ok(()),
        Some(ReadyCheck { interval_s: 0, .. } | ReadyCheck { timeout_s: 0, .. }) => {
            Err("`interval_s` and `timeout_s` must be at least 1")
        }
        Some(ready) if !ready.command.first().is_some_and(|program| program.starts_with('/')) => {
            Err("the ready command must start with an absolute path")
        }
        Some(ready) if ready.command.iter().any(|word| word.contains('\0')) => {
            Err("the ready command must not hold a zero byte")
        }
        Some(_) => Ok(()),
    }
}
