//! What of a configuration the root processes are told. Never tells them.

use std::collections::BTreeSet;

use protocol_types::{
    AppName, Configuration,
    socket::{AppsSettings, GivenToApplication, UpdaterSettings},
};
use serde_json::Value;

use super::sealing::OpenSecrets;

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InForce {
    /// The settings.
    pub settings: Configuration,
    /// The secrets, in the clear.
    pub(crate) secrets: OpenSecrets,
}

impl From<Configuration> for InForce {
    /// Settings without secrets.
    fn from(settings: Configuration) -> Self {
        Self { settings, secrets: OpenSecrets::new() }
    }
}

/// The part that the updater keeps to.
pub(crate) fn for_updater(in_force: &InForce) -> UpdaterSettings {
    UpdaterSettings {
        log_level: in_force.settings.log_levels.and_then(|levels| levels.updater),
        update_window: in_force.settings.update_window,
    }
}

/// The part that `mbl-apps` keeps to, and what applications are given.
pub(crate) fn for_apps(in_force: &InForce) -> AppsSettings {
    let settings = |name: &AppName| in_force.settings.applications.as_ref()?.get(name)?.clone();
    let names: BTreeSet<&AppName> =
        in_force.settings.applications.iter().flatten().map(|(name, _)| name).chain(in_force.secrets.keys()).collect();
    let given = |name: &AppName| GivenToApplication {
        settings: settings(name).map(|of_app| Value::Object(of_app).to_string()),
        secrets: in_force.secrets.get(name).cloned().unwrap_or_default(),
    };
    AppsSettings {
        log_level: in_force.settings.log_levels.and_then(|levels| levels.apps),
        applications: names
            .into_iter()
            .map(|name| (name.clone(), given(name)))
            .filter(|(_, given)| *given != GivenToApplication::default())
            .collect(),
    }
}
