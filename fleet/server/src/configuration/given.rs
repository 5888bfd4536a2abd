//! How a device stands to the configuration that it should have.

use fleet_api::ConfigurationStatus;
use fleet_store::GivenConfiguration;
use protocol_types::ConfigurationState;

use super::Effective;

/// How it stands, from what it should have and what it was given and said.
pub(crate) fn status(wanted: &Effective, given: Option<&GivenConfiguration>) -> ConfigurationStatus {
    if wanted.invalid.is_some() {
        return ConfigurationStatus::Invalid;
    }
    let Some(given) = given else {
        let is_unset = wanted.document.is_empty();
        return if is_unset { ConfigurationStatus::Unset } else { ConfigurationStatus::Waiting };
    };
    let Some((said, _)) = given.report.as_ref().filter(|(said, _)| said.generation == given.generation) else {
        return ConfigurationStatus::Waiting;
    };
    if given.digest != wanted.digest() {
        return ConfigurationStatus::Waiting;
    }
    match said.state {
        ConfigurationState::None => ConfigurationStatus::Waiting,
        ConfigurationState::Trial => ConfigurationStatus::Trial,
        ConfigurationState::Confirmed if said.digest == Some(given.digest) => ConfigurationStatus::InForce,
        ConfigurationState::Confirmed => ConfigurationStatus::Drifted,
        ConfigurationState::Refused => ConfigurationStatus::Refused,
        ConfigurationState::Undone => ConfigurationStatus::Undone,
    }
}
