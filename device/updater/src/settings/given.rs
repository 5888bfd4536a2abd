//! What the service gives for the operating system: on trial below `/run`, kept on the state partition once the service was reached with
//! it. Never asks the service.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use protocol_types::{Configuration, ConfigurationError, Digest, SystemSettings};
use tracing::{info, warn};

use super::{
    Place, SettingsError,
    checkpoint::{self, Back},
    folder, has_hostname, identity, kernel_hostname,
    programs::{self, Network},
    render::{Rendered, name_of},
    set_hostname,
};
use crate::files::{read_at_most, read_if_there};

/// What was confirmed, in the device's folder.
const FOLDER: &str = "state/system";
const FILE: &str = "given.json";
/// Seconds that bringing settings into force may take: eight interfaces that do not come up, half a minute each.
const BRINGING_S: u32 = 300;
/// Seconds that NetworkManager waits longer than the agent, which takes settings back more gently.
const MARGIN_S: u32 = 30;

/// Kept settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    /// The file.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// What is in it.
    #[error("{} holds no settings", path.display())]
    Form { path: PathBuf, source: ConfigurationError },
}

/// What was confirmed last; nothing if nothing ever was.
pub(super) fn kept(device_dir: &Path) -> Result<SystemSettings, KeptError> {
    let path = device_dir.join(FOLDER).join(FILE);
    match read_if_there(&path, SystemSettings::MAX_BYTES) {
        Ok(Some(bytes)) => SystemSettings::parse(&bytes).map_err(|source| KeptError::Form { path, source }),
        Ok(None) => Ok(SystemSettings::default()),
        Err(source) => Err(KeptError::Read { path, source }),
    }
}

/// What is in force of it, on trial or confirmed.
pub(super) fn in_force(place: &Place) -> Result<SystemSettings, SettingsError> {
    let Some(bytes) = folder::given(place)? else { return Ok(SystemSettings::default()) };
    Ok(SystemSettings::parse(&bytes).unwrap_or_else(|cause| {
        warn!(%cause, "what the service had given was changed by somebody else, and is not in force");
        SystemSettings::default()
    }))
}

/// Brings settings into force so that nothing of them outlives a restart of the device, and the network goes back by itself.
pub(super) fn bring_on_trial(place: &Place, given: &SystemSettings, contact_limit_s: u32) -> Result<(), SettingsError> {
    let _lock = folder::lock(place)?;
    check_network(place, given)?;
    let wanted = wanted(place, given)?;
    let limit = contact_limit_s.min(*Configuration::CONTACT_LIMIT_S.end());
    let former = folder::in_force(place);
    if former.as_ref() == Some(&wanted) && has_hostname(place, &wanted) {
        checkpoint::extend(place, limit + MARGIN_S);
        return Ok(());
    }
    // Whoever was interrupted in telling has changed the network perhaps: the checkpoint of then still holds.
    let before = former.clone().or_else(|| folder::files(place));
    if before.as_ref().is_none_or(|before| before.connections != wanted.connections) {
        checkpoint::hold(place, before.as_ref(), limit + BRINGING_S)?;
    }
    bring(place, former.as_ref(), &wanted, Network::BringUp)?;
    checkpoint::extend(place, limit + MARGIN_S);
    info!(limit, "new settings of the service are on trial");
    Ok(())
}

/// Keeps settings with which the service was reached, and takes back whatever else is in force.
pub(super) fn keep(place: &Place, given: &SystemSettings) -> Result<(), SettingsError> {
    let _lock = folder::lock(place)?;
    check_network(place, given)?;
    let wanted = wanted(place, given)?;
    write(&place.device_dir.join(FOLDER), given)?;
    let former = folder::in_force(place);
    if former.as_ref() == Some(&wanted) && has_hostname(place, &wanted) {
        checkpoint::release(place);
        return Ok(());
    }
    let network = if former.as_ref().is_some_and(|former| former.connections == wanted.connections) {
        checkpoint::release(place);
        Network::BringUp
    } else {
        match checkpoint::go_back(place, &wanted) {
            Back::NotHeld => Network::BringUp,
            Back::There => Network::IsBack,
            Back::Elsewhere => Network::BringAllUp,
        }
    };
    bring(place, former.as_ref(), &wanted, network)?;
    info!(?network, "the settings of the service are in force as they are kept");
    Ok(())
}

/// Looks whether all is as it was brought into force; a digest of what is there if it is not.
pub(super) fn drift(place: &Place) -> Result<Option<Digest>, SettingsError> {
    let _lock = folder::lock(place)?;
    let given = in_force(place)?;
    let wanted = wanted(place, &given)?;
    let there = folder::files(place).unwrap_or_default();
    let name = kernel_hostname(place);
    // A cable that is out leaves an interface without any connection, which is nobody's doing.
    let others: Vec<String> = given
        .network()
        .keys()
        .filter_map(|interface| {
            let up = programs::connection_up(&place.root, interface.as_str())?;
            (up != name_of(interface.as_str())).then(|| format!("{interface} {up}"))
        })
        .collect();
    let is_as_brought = there == wanted && has_hostname(place, &wanted) && others.is_empty();
    Ok((!is_as_brought).then(|| there.digest_with(&[vec![name], others].concat())))
}

/// The files for the release that runs with what the service gives.
fn wanted(place: &Place, given: &SystemSettings) -> Result<Rendered, SettingsError> {
    let identity = identity(&place.device_dir);
    Ok(Rendered::of(folder::document(place)?.as_deref(), given, identity.as_ref())?)
}

fn bring(place: &Place, former: Option<&Rendered>, wanted: &Rendered, network: Network) -> Result<(), SettingsError> {
    folder::put(place, wanted)?;
    set_hostname(place, wanted)?;
    programs::tell(&place.root, former, wanted, network);
    folder::note_told(place)
}

/// Refuses a network on a board where nothing would bring it up.
fn check_network(place: &Place, given: &SystemSettings) -> Result<(), SettingsError> {
    let is_there = programs::OF_NETWORK.iter().all(|program| place.root.join(program).exists());
    if given.network().is_empty() || is_there { Ok(()) } else { Err(SettingsError::NoNetworkManager) }
}

/// Replaces what is kept: after a cut of power it is the former or the new, whole.
fn write(folder: &Path, given: &SystemSettings) -> Result<(), SettingsError> {
    let (path, temporary) = (folder.join(FILE), folder.join(format!("{FILE}.tmp")));
    let text = String::from(given.clone());
    if read_at_most(&path, SystemSettings::MAX_BYTES).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    let replace = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    replace().map_err(SettingsError::file("replace", &path))
}
