//! The settings of the operating system: what the configuration document `system` says, rendered below `/run` for the programs that
//! read it. `/etc` stays as the verified root has it. Never decides which release runs, and never opens a network socket.

mod checkpoint;
mod conversation;
mod folder;
mod given;
mod kept;
mod programs;
mod render;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use protocol_release::document::{DocumentError, SystemConfiguration};
use protocol_types::{AppName, FactoryDocument, HostName};
use tracing::{error, info};

use crate::files::{read_at_most, read_if_there};
use programs::Network;
use render::{DOCUMENT, HOSTNAME, Rendered};

pub use checkpoint::CheckpointError;
pub use conversation::answer;

/// The documents in force, in the device's folder.
pub const DOCUMENTS: &str = "run/configuration";
/// There once the documents in force may have changed; whoever reads them removes it first.
pub const CHANGED: &str = "run/configuration-changed";

/// What the kernel says the machine is called, from the top of the root on.
const KERNEL_HOSTNAME: &str = "proc/sys/kernel/hostname";

/// A device whose settings are rendered.
#[derive(Clone, Debug)]
pub struct Place {
    /// The device's folder.
    pub device_dir: PathBuf,
    /// The root of the running system.
    pub root: PathBuf,
}

/// Settings that are not in force.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The document is none.
    #[error("the system configuration is refused, and the former one stays in force")]
    Refused(#[from] DocumentError),
    /// The system has nothing that brings a network up.
    #[error("this board has no NetworkManager, so it takes no `network` from the service")]
    NoNetworkManager,
    /// A network that nobody would take back.
    #[error("NetworkManager cannot take the network back, so it is not changed")]
    Checkpoint(#[from] CheckpointError),
    /// A file.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SettingsError {
    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }
}

/// Renders the settings of the release that was booted, before any program reads them. A document that cannot be read leaves the image's
/// own settings in force: a device without them is still one that can be reached.
///
/// # Errors
/// If a file cannot be written.
pub fn at_boot(place: &Place) -> Result<(), SettingsError> {
    let document = kept::document(&place.device_dir).unwrap_or_else(|e| {
        error!(cause = %chain(&e), "the settings of this release cannot be read; those of the image are in force");
        None
    });
    let given = given::kept(&place.device_dir).unwrap_or_else(|e| {
        error!(cause = %chain(&e), "what the service has given cannot be read, and is not in force");
        Default::default()
    });
    let identity = identity(&place.device_dir);
    let rendered = Rendered::of(document.as_deref(), &given, identity.as_ref()).or_else(|e| {
        error!(cause = %chain(&e), "the settings of this release are refused; those of the image are in force");
        Rendered::of(None, &given, identity.as_ref())
    })?;
    let _lock = folder::lock(place)?;
    folder::put(place, &rendered)?;
    set_hostname(place, &rendered)?;
    folder::note_told(place)
}

/// Whether what was rendered at boot is what these documents of the running release ask for, and every program has read it. For whoever
/// knows that nobody else may be changing settings by documents.
pub fn hold_since_boot(place: &Place, documents: &[(AppName, Vec<u8>)]) -> bool {
    let Ok(given) = given::in_force(place) else { return false };
    let document = documents.iter().find(|(name, _)| name.as_str() == SystemConfiguration::NAME);
    let wanted = Rendered::of(document.map(|(_, bytes)| &bytes[..]), &given, identity(&place.device_dir).as_ref());
    wanted.is_ok_and(|wanted| folder::in_force(place) == Some(wanted))
}

/// Renders the settings of the release that runs now, and tells the programs whose settings changed.
///
/// # Errors
/// If the document is refused, or a file cannot be read or written.
pub fn change(place: &Place) -> Result<(), SettingsError> {
    let (changed, path) = (
        place.device_dir.join(CHANGED),
        place.device_dir.join(DOCUMENTS).join(format!("{}.json", SystemConfiguration::NAME)),
    );
    let _lock = folder::lock(place)?;
    // First: what changes from here on is looked at again.
    match fs::remove_file(&changed) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(SettingsError::file("remove", &changed)(e)),
        Ok(()) | Err(_) => {}
    }
    let document = read_if_there(&path, SystemConfiguration::MAX_BYTES).map_err(SettingsError::file("read", &path))?;
    let given = given::in_force(place)?;
    let rendered = Rendered::of(document.as_deref(), &given, identity(&place.device_dir).as_ref())?;
    let former = folder::in_force(place);
    if former.as_ref() == Some(&rendered) {
        return Ok(());
    }
    folder::put(place, &rendered)?;
    set_hostname(place, &rendered)?;
    programs::tell(&place.root, former.as_ref(), &rendered, Network::BringUp);
    if former.is_none_or(|former| former.setting(DOCUMENT) != rendered.setting(DOCUMENT)) {
        programs::restart_agent(&place.root);
    }
    info!("new settings are in force");
    folder::note_told(place)
}

/// The host name by the device's identity; none before it has one.
fn identity(device_dir: &Path) -> Option<HostName> {
    let bytes = read_at_most(&device_dir.join("factory/factory.json"), FactoryDocument::MAX_BYTES).ok()?;
    HostName::of_endpoint(&FactoryDocument::parse(&bytes).ok()?.endpoint)
}

/// Lets the kernel know the machine's name; without one, the system's own default stands.
fn set_hostname(place: &Place, rendered: &Rendered) -> Result<(), SettingsError> {
    let name = rendered.setting(HOSTNAME);
    let path = place.root.join(KERNEL_HOSTNAME);
    if name.is_empty() { Ok(()) } else { fs::write(&path, name).map_err(SettingsError::file("write", &path)) }
}

/// Whether the kernel says the name that was rendered.
fn has_hostname(place: &Place, rendered: &Rendered) -> bool {
    let name = rendered.setting(HOSTNAME);
    name.is_empty() || name == kernel_hostname(place).as_bytes()
}

/// What the kernel says the machine is called.
fn kernel_hostname(place: &Place) -> String {
    fs::read_to_string(place.root.join(KERNEL_HOSTNAME)).unwrap_or_default().trim_end().to_owned()
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
