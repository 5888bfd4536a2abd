//! The part of a device's configuration that the root processes keep to. The agent hands it on as it is in force, on trial or confirmed.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{AppName, LogLevel, SecretName, configuration::UpdateWindow};

/// What the configuration says about the updater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdaterSettings {
    /// The least important messages that it writes; none: as it was started.
    pub log_level: Option<LogLevel>,
    /// When it may change the software of the device for the service; none: always.
    pub update_window: Option<UpdateWindow>,
}

/// What the configuration says about `mbl-apps` and applications.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppsSettings {
    /// The least important messages that `mbl-apps` writes; none: as it was started.
    pub log_level: Option<LogLevel>,
    /// What applications are given, by their names.
    pub applications: BTreeMap<AppName, GivenToApplication>,
}

/// What one application is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenToApplication {
    /// Its settings: a JSON object that only the application understands; none if the configuration says nothing.
    pub settings: Option<String>,
    /// Its secrets, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, SecretValue>,
}

/// A secret in the clear. Shows itself in no log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretValue(#[serde(with = "serde_bytes")] Vec<u8>);

impl SecretValue {
    /// A secret of these bytes.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}
