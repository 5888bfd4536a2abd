//! The part of a device's configuration that the root processes keep to. The agent hands it on as it is in force, on trial or confirmed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AppName, LogLevel, configuration::UpdateWindow};

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
    /// Settings of applications by their names: JSON objects that only the application understands.
    pub applications: BTreeMap<AppName, String>,
}
