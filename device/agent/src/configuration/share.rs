//! What of a configuration the root processes are told. Never tells them.

use protocol_types::{
    Configuration,
    socket::{AppsSettings, UpdaterSettings},
};
use serde_json::Value;

/// The part that the updater keeps to.
pub(crate) fn for_updater(settings: &Configuration) -> UpdaterSettings {
    UpdaterSettings {
        log_level: settings.log_levels.and_then(|levels| levels.updater),
        update_window: settings.update_window,
    }
}

/// The part that `mbl-apps` keeps to, and what applications are given.
pub(crate) fn for_apps(settings: &Configuration) -> AppsSettings {
    let given = settings.applications.iter().flatten();
    AppsSettings {
        log_level: settings.log_levels.and_then(|levels| levels.apps),
        applications: given
            .filter_map(|(name, of_app)| Some((name.clone(), Value::Object(of_app.clone()?).to_string())))
            .collect(),
    }
}
