//! What a release shall consist of, from `release.toml` or from options, and the release document made of it. Never signs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image_builder::{
    application::AppLayout,
    artifacts::ArtifactFile,
    os_folder::{INDEX_FILE, INDEX_WITH_FIRMWARE, OsFolder},
};
use protocol_release::{
    document::{Component, FormatOne, Health, Kind, Release, SystemConfiguration},
    metadata::Delegate,
    signing::Entry,
};
use protocol_types::{AppName, Architecture, Digest, ReleaseVersion, SecurityVersion, TargetPath};
use serde::Deserialize;

use crate::repository::Role;

/// What a release shall consist of; folders are relative to the recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// The release's version.
    pub(crate) version: ReleaseVersion,
    /// Raised when returning to older releases must become impossible.
    #[serde(default)]
    pub(crate) security_version: SecurityVersion,
    /// Whether confirmed devices refuse lower security versions from then on.
    #[serde(default)]
    pub(crate) raises_floor: bool,
    /// How a trial is judged.
    #[serde(default = "default_health")]
    pub(crate) health: Health,
    /// The operating system.
    #[serde(default)]
    pub(crate) os: Option<OsPart>,
    /// The applications.
    #[serde(default, rename = "application")]
    pub(crate) applications: Vec<AppPart>,
    /// The configurations.
    #[serde(default, rename = "configuration")]
    pub(crate) configurations: Vec<ConfigurationPart>,
}

/// The operating system of a release.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OsPart {
    /// Folder that `mbl image` wrote.
    pub(crate) folder: PathBuf,
    /// The architectures that it is made for.
    pub(crate) architectures: Vec<Architecture>,
    /// The lowest generation of the updater that can install it.
    #[serde(default = "first_updater")]
    pub(crate) minimum_updater: u32,
    /// Whether the release brings the firmware of the build, too.
    #[serde(default)]
    pub(crate) with_firmware: bool,
}

/// The first generation of the updater that can install firmware.
const FIRMWARE_UPDATER: u32 = 2;

/// An application of a release.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppPart {
    /// Folder that `mbl app build` wrote.
    pub(crate) folder: PathBuf,
    /// The lowest generation of the updater that can install it.
    #[serde(default = "first_updater")]
    pub(crate) minimum_updater: u32,
}

/// A configuration of a release.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigurationPart {
    /// Its name.
    pub(crate) name: AppName,
    /// Its version.
    pub(crate) version: ReleaseVersion,
    /// The document.
    pub(crate) file: PathBuf,
}

const fn first_updater() -> u32 {
    1
}

/// The times that the format page shows.
pub(crate) const fn default_health() -> Health {
    Health { time_limit_s: 90, no_contact_limit_s: 600 }
}

/// One component with everything that a release folder needs of it.
#[derive(Debug)]
pub(crate) struct Part {
    /// As the release names it.
    pub(crate) component: Component,
    /// The role that must vouch for it.
    pub(crate) role: Role,
    /// Its files.
    pub(crate) artifacts: Vec<ArtifactFile>,
    /// The target itself, if it is not among the files.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Part {
    /// What its role lists.
    pub(crate) fn entry(&self) -> Entry {
        Entry { digest: self.component.digest, size: self.component.size }
    }
}

impl Recipe {
    /// Reads the recipe at `path`.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a release recipe", path.display()))
    }

    /// Reads every component; relative folders start at `base`.
    pub(crate) fn parts(&self, base: &Path) -> anyhow::Result<Vec<Part>> {
        let mut parts = Vec::new();
        if let Some(os) = &self.os {
            parts.push(os_part(os, base)?);
        }
        for app in &self.applications {
            parts.push(app_part(app, base)?);
        }
        for configuration in &self.configurations {
            parts.push(configuration_part(configuration, base)?);
        }
        Ok(parts)
    }

    /// The release document over `parts`.
    pub(crate) fn release(&self, parts: &[Part]) -> Release {
        Release {
            format: FormatOne,
            version: self.version.clone(),
            security_version: self.security_version,
            raises_floor: self.raises_floor,
            health: self.health,
            components: parts.iter().map(|part| part.component.clone()).collect(),
        }
    }
}

fn os_part(part: &OsPart, base: &Path) -> anyhow::Result<Part> {
    // A version has no `_`, so the two kinds of index of one version never share a path.
    let (index, suffix, needs) =
        if part.with_firmware { (INDEX_WITH_FIRMWARE, "_firmware", FIRMWARE_UPDATER) } else { (INDEX_FILE, "", 0) };
    let os = OsFolder::load(&base.join(&part.folder), index)?;
    let component = Component {
        kind: Kind::Os,
        path: TargetPath::new(format!("os/{}/{}{suffix}.json", os.index.board, os.index.version))?,
        digest: os.stored.digest,
        size: os.stored.size,
        version: os.index.version.clone(),
        boards: vec![os.index.board.clone()],
        architectures: part.architectures.clone(),
        minimum_updater: part.minimum_updater.max(needs),
    };
    Ok(Part { component, role: Role::Delegated(Delegate::Os), artifacts: os.artifacts, bytes: None })
}

fn app_part(part: &AppPart, base: &Path) -> anyhow::Result<Part> {
    let app = AppLayout::load(&base.join(&part.folder))?;
    let name = app.facts.name;
    let component = Component {
        path: TargetPath::new(format!("apps/{name}/{}.json", app.facts.version))?,
        kind: Kind::Application { name: name.clone(), run: app.facts.run },
        digest: app.stored.digest,
        size: app.stored.size,
        version: app.facts.version,
        boards: Vec::new(),
        architectures: app.facts.architectures,
        minimum_updater: part.minimum_updater,
    };
    Ok(Part { component, role: Role::Delegated(Delegate::App(name)), artifacts: app.artifacts, bytes: None })
}

fn configuration_part(part: &ConfigurationPart, base: &Path) -> anyhow::Result<Part> {
    let file = base.join(&part.file);
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if part.name.as_str() == SystemConfiguration::NAME {
        SystemConfiguration::parse(&bytes).with_context(|| format!("no device would take {}", file.display()))?;
    }
    let component = Component {
        kind: Kind::Configuration { name: part.name.clone() },
        path: TargetPath::new(format!("configuration/{}/{}.json", part.name, part.version))?,
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        version: part.version.clone(),
        boards: Vec::new(),
        architectures: Vec::new(),
        minimum_updater: 1,
    };
    Ok(Part { component, role: Role::Targets, artifacts: Vec::new(), bytes: Some(bytes) })
}
