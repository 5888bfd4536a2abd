//! The folder that the OCI runtime reads: configuration, ready check and a read-only view of the unpacked image.
//!
//! Bundles lie in `/run`, because a container's root is a nobody outside and must be able to walk to its files; the device's
//! own folders may be closed to it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use oci_spec::{
    OciSpecError,
    runtime::{Process, Spec},
};
use protocol_types::{ReasonCode, socket::GivenToApplication};

use super::mounts::{bind_read_only, in_memory, unbind};
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

    /// Where the runtime writes the id of the container's first process.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Where the ready check's process is described.
    pub fn ready_file(&self) -> PathBuf {
        self.dir.join("ready.json")
    }

    /// The folder that the container sees as `/run/mbl`, if it is given anything.
    pub fn settings(&self) -> PathBuf {
        self.dir.join("settings")
    }

    /// The folder in memory that the container sees as `/run/mbl/secrets`, if it has any.
    pub fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    /// The file that the container sees as `/etc/resolv.conf`, if it is on the device's network.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    /// Makes the bundle anew.
    pub fn write(
        &self,
        image: &Path,
        (spec, ready): (&Spec, Option<&Process>),
        given: Option<(&GivenToApplication, (u32, u32))>,
    ) -> Result<(), BundleError> {
        self.remove()?;
        let rootfs = self.rootfs();
        // Passable for everybody, readable for nobody but us.
        let made = DirBuilder::new().recursive(true).mode(0o711).create(&rootfs);
        made.map_err(failed("make the folder", &rootfs))?;
        bind_read_only(image, &rootfs).map_err(failed("show the image at", &rootfs))?;
        self.put("config.json", &serde_json::to_vec(spec)?, None)?;
        if let Some((given, owner)) = given {
            self.give(given, owner)?;
        }
        match ready {
            Some(process) => self.put("ready.json", &serde_json::to_vec(process)?, None),
            None => Ok(()),
        }
    }

    /// Writes what the application is given; its secrets only into memory, and readable for its user alone, who is `owner` outside.
    fn give(&self, given: &GivenToApplication, owner: (u32, u32)) -> Result<(), BundleError> {
        let folder = self.settings();
        DirBuilder::new().mode(0o755).create(&folder).map_err(failed("make the folder", &folder))?;
        if let Some(settings) = &given.settings {
            self.put("settings/settings.json", settings.as_bytes(), Some(owner))?;
        }
        if given.secrets.is_empty() {
            return Ok(());
        }
        // Beside the settings and not in them: a container may not bind a folder without what is mounted below it.
        let (place, folder) = (folder.join("secrets"), self.secrets());
        for folder in [&place, &folder] {
            DirBuilder::new().mode(0o755).create(folder).map_err(failed("make the folder", folder))?;
        }
        in_memory(&folder).map_err(failed("make a file system in memory at", &folder))?;
        for (name, secret) in &given.secrets {
            write_private(&folder.join(name.as_str()), secret.as_bytes(), Some(owner))?;
        }
        Ok(())
    }

    /// Removes the bundle, if it is there.
    pub fn remove(&self) -> Result<(), BundleError> {
        let secrets = self.secrets();
        unbind(&secrets).map_err(failed("take away", &secrets))?;
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

    fn put(&self, name: &str, bytes: &[u8], owner: Option<(u32, u32)>) -> Result<(), BundleError> {
        write_private(&self.dir.join(name), bytes, owner)
    }
}

/// Makes a file that `owner`, or else this process's user, may read and nobody else.
fn write_private(path: &Path, bytes: &[u8], owner: Option<(u32, u32)>) -> Result<(), BundleError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path);
    let mut file = made.map_err(failed("make", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    match owner {
        Some((uid, gid)) => fchown(&file, Some(uid), Some(gid)).map_err(failed("set the owner of", path)),
        None => Ok(()),
    }
}
