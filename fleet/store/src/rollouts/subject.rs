//! What a rollout brings to devices: a release, or a revision of a document of configuration that is not in force. Never decides
//! anything.

use protocol_types::ReleaseVersion;
use serde_json::{Map, Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{Audience, ConfigurationLevel, Filter, StoreError, error::cannot, rows::parsed};

/// What a rollout brings to devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A release.
    Release(ReleaseVersion),
    /// A revision of a document that is newer than the one in force.
    Configuration {
        /// Whose document.
        level: ConfigurationLevel,
        /// Its revision.
        revision: i64,
    },
}

impl Subject {
    /// What only one rollout at a time decides for a device: all releases are one thing, each document is another.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Release(_) => String::new(),
            Self::Configuration { level, .. } => format!("{}/{}", level.kind(), level.name()),
        }
    }

    /// The devices that it can be for at all; `None` for every device.
    pub(crate) fn only_for(&self) -> Option<Filter> {
        match self {
            Self::Release(_) | Self::Configuration { level: ConfigurationLevel::Account, .. } => None,
            Self::Configuration { level: ConfigurationLevel::Group(name), .. } => Some(Filter::of_group(name)),
            Self::Configuration { level: ConfigurationLevel::Device(endpoint), .. } => {
                Some(Filter::of_device(endpoint))
            }
        }
    }

    /// The document and its revision, if a rollout of it to this audience reaches every device that the document is for. Such a
    /// rollout brings the revision in force when it ends well.
    pub fn in_force_after(&self, audience: &Audience) -> Option<(&ConfigurationLevel, i64)> {
        let Self::Configuration { level, revision } = self else { return None };
        let all = match (level, audience) {
            (_, Audience::All) => true,
            (ConfigurationLevel::Group(name), Audience::Group(group)) => name == group,
            (ConfigurationLevel::Device(endpoint), Audience::Devices(devices)) => devices.contains(endpoint),
            (
                ConfigurationLevel::Account | ConfigurationLevel::Group(_) | ConfigurationLevel::Device(_),
                Audience::Group(_) | Audience::Filter(_) | Audience::Devices(_),
            ) => false,
        };
        all.then_some((level, *revision))
    }

    /// As events tell it.
    pub(crate) fn told(&self) -> Map<String, Value> {
        let told = match self {
            Self::Release(version) => json!({ "release": version }),
            Self::Configuration { level, revision } => {
                json!({ "configuration": { "level": level.kind(), "name": level.name(), "revision": revision } })
            }
        };
        if let Value::Object(told) = told { told } else { Map::new() }
    }

    /// Reads the columns `version`, `level`, `level_name` and `level_revision`.
    pub(crate) fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let damaged = |column| StoreError::Damaged { table: "rollouts", column };
        if let Some(version) = parsed(row, "version")? {
            return Ok(Self::Release(version));
        }
        let text = |column| row.try_get::<Option<String>, _>(column).map_err(cannot("read a rollout"));
        let (kind, name) = (text("level")?.unwrap_or_default(), text("level_name")?.unwrap_or_default());
        let revision: Option<i64> = row.try_get("level_revision").map_err(cannot("read a rollout"))?;
        Ok(Self::Configuration {
            level: ConfigurationLevel::read(&kind, &name).ok_or_else(|| damaged("level"))?,
            revision: revision.ok_or_else(|| damaged("level_revision"))?,
        })
    }
}
