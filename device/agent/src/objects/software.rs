//! Object 9, Software Management, one instance for each application of the running release, as a view: nothing is installed,
//! removed or stopped through it.

use std::collections::BTreeMap;

use protocol_lwm2m::{
    client::{ObjectError, Reading},
    formats::Value,
};
use protocol_types::{
    AppName, UpdateStatus,
    socket::{ApplicationState, ApplicationStatus},
    update::RunningApplication,
};

use super::{integer, text};

/// The applications of the running release by object instance. An application keeps its instance as long as it is installed.
#[derive(Debug, Default)]
pub(super) struct Installed {
    instances: BTreeMap<u16, Application>,
}

/// What the updater says about an application and what `mbl-apps` says.
#[derive(Debug)]
pub(super) struct Application {
    pub(super) release: RunningApplication,
    pub(super) state: Option<ApplicationState>,
}

impl Installed {
    pub(super) fn refresh(&mut self, status: Option<&UpdateStatus>, reports: Vec<ApplicationStatus>) {
        let wanted = status.map_or(&[][..], |status| &status.running.applications);
        self.instances.retain(|_, held| wanted.iter().any(|app| app.name == held.release.name));
        for app in wanted {
            let state = reports.iter().find(|report| report.name == app.name && report.digest == app.digest);
            let application = Application { release: app.clone(), state: state.map(|report| report.state) };
            let instance = self.instance_of(&app.name);
            self.instances.insert(instance, application);
        }
    }

    /// The instance that an application has, or else the lowest free one.
    fn instance_of(&self, name: &AppName) -> u16 {
        let held = self.instances.iter().find(|(_, app)| app.release.name == *name).map(|(instance, _)| *instance);
        held.unwrap_or_else(|| (0..u16::MAX).find(|id| !self.instances.contains_key(id)).unwrap_or_default())
    }

    pub(super) fn instances(&self) -> Vec<u16> {
        self.instances.keys().copied().collect()
    }

    /// The applications in the order of their instances.
    pub(super) fn applications(&self) -> impl Iterator<Item = &Application> {
        self.instances.values()
    }

    pub(super) fn read(&self, instance: u16, resource: u16) -> Result<Reading, ObjectError> {
        let app = self.instances.get(&instance).ok_or(ObjectError::NotFound)?;
        let failed = app.state == Some(ApplicationState::Failed);
        Ok(match resource {
            0 => text(&app.release.name),
            1 => text(&app.release.version),
            // 4 installed: an application that is part of the running release is in its place.
            7 => integer(4),
            // 2 installed well, 58 installation failed.
            9 => integer(if failed { 58 } else { 2 }),
            12 => Reading::Single(Value::Boolean(matches!(
                app.state,
                Some(ApplicationState::Started | ApplicationState::Ready)
            ))),
            _ => return Err(ObjectError::NotFound),
        })
    }
}
