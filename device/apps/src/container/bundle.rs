//! The folder that the OCI runtime reads: configuration, ready check and a read-only view of the unpacked image.
//!
//! Bundles lie in `/run`, because a container's root is a nobody outside and must be able to walk to its files; the device's
//! own folders may be closed to it.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use oci_spec::{
    OciSpecError,
    runtime::{Process, Spec},
};
use protocol_types::ReasonCode;

use super::mounts::{bind_read_only, unbind};
use crate::refusal::{Coded, storage_code};

/// A bundle that could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The configuration cannot be expressed.
    #[error("cannot describe the container to the runtime")]
    Spec(#[from] OciSpecError),
    /// The image asks for a user that it does not define.
    #[error("cannot tell the user that the image runs as")]
    User(#[from] crate::image::ImageError),
    /// The configuration cannot be written as JSON.
    #[error("cannot write the description of the container")]
    Json(#[from] serde_json::Error),
}

impl Coded for BundleError {
    fn code(&self) -> ReasonCode {
        match self {
            Self::Io { source, .. } => storage_code(source),
            Self::Spec(_) | Self::Json(_) => ReasonCode::Internal,
            Self::User(source) => source.code(),
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError {
    let path = path.to_owned();
    move |source| BundleError::Io { what, path, source }
}

/// One application's bundle.
#[derive(Debug)]
pub struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    /// The bundle in `dir`, which need not exist.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the runtime finds the root of the container.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Where the ready check's process is described.
    pub fn ready_file(&self) -> PathBuf {
        self.dir.join("ready.json")
    }

    /// The folder that the container sees as `/run/mbl`, if there are settings.
    pub fn settings(&self) -> PathBuf {
        self.dir.join("settings")
    }

    /// Makes the bundle anew.
    pub fn write(
        &self,
        image: &Path,
        (spec, ready): (&Spec, Option<&Process>),
        settings: Option<&str>,
    ) -> Result<(), BundleError> {
        self.remove()?;
        let rootfs = self.rootfs();
        // Passable for everybody, readable for nobody but us.
        let made = DirBuilder::new().recursive(true).mode(0o711).create(&rootfs);
        made.map_err(failed("make the folder", &rootfs))?;
        bind_read_only(image, &rootfs).map_err(failed("show the image at", &rootfs))?;
        self.put("config.json", &serde_json::to_vec(spec)?)?;
        if let Some(settings) = settings {
            let folder = self.settings();
            DirBuilder::new().mode(0o755).create(&folder).map_err(failed("make the folder", &folder))?;
            self.put("settings/settings.json", settings.as_bytes())?;
        }
        match ready {
            Some(process) => self.put("ready.json", &serde_json::to_vec(process)?),
            None => Ok(()),
        }
    }

    /// Removes the bundle, if it is there.
    pub fn remove(&self) -> Result<(), BundleError> {
        let rootfs = self.rootfs();
        unbind(&rootfs).map_err(failed("take away the image from", &rootfs))?;
        match fs::remove_dir(&rootfs) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                // Not empty means still mounted: removing further would empty the image itself.
                return Err(failed("remove", &rootfs)(source));
            }
            _ => {}
        }
        match fs::remove_dir_all(&self.dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.dir)(source)),
            _ => Ok(()),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(failed("write", &path))
    }
}
