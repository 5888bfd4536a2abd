//! The settings that the agent handed on last, so that applications have them from the start of a device on, with or without an agent.
//! Never keeps a secret: the agent hands those on again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::socket::AppsSettings;
use serde::{Deserialize, Serialize};

use super::{StoreError, durable};

const NAME: &str = "settings.json";

/// The file (format 1).
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    settings: AppsSettings,
}

/// The place of the file.
#[derive(Debug)]
pub struct KeptSettings {
    dir: PathBuf,
}

impl KeptSettings {
    pub(super) fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// What was saved last; the defaults if nothing was, or by a version with another format.
    pub fn load(&self) -> Result<AppsSettings, StoreError> {
        let path = self.dir.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(AppsSettings::default()),
            Err(source) => return Err(StoreError::Io { what: "read", path, source }),
        };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|source| StoreError::Malformed { path, source })?;
        Ok(if kept.format == 1 { kept.settings } else { AppsSettings::default() })
    }

    /// Keeps them.
    pub fn save(&self, settings: &AppsSettings) -> Result<(), StoreError> {
        let mut settings = settings.clone();
        settings.applications.values_mut().for_each(|given| given.secrets.clear());
        settings.applications.retain(|_, given| given.settings.is_some());
        let kept = Kept { format: 1, settings };
        let path = || self.dir.join(NAME);
        let bytes = serde_json::to_vec(&kept).map_err(|source| StoreError::Malformed { path: path(), source })?;
        durable::write(&self.dir, NAME, &bytes)
    }
}
