//! Where rendered settings are: a folder of ours that is exchanged as a whole, and NetworkManager's folder for connections that last no
//! longer than the system is up. All of it is below `/run`, so nothing here needs to last.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use tracing::warn;

use super::{
    Place, SettingsError,
    render::{DOCUMENT, GIVEN, Rendered},
};
use crate::files::{read_at_most, read_if_there};

/// Our folder, in the device's folder.
const FOLDER: &str = "run/system";
/// Whoever changes settings holds this, in the device's folder.
const LOCK: &str = "run/system.lock";
/// In our folder once every program was told what it holds.
const TOLD: &str = "told";
/// Connections that are made while the system is up, from the top of the root on.
const CONNECTIONS: &str = "run/NetworkManager/system-connections";
/// Connections that last. NetworkManager 1.42 puts one of ours there if it brings it back from a checkpoint after it had been removed.
const LASTING_CONNECTIONS: &str = "var/lib/NetworkManager/system-connections";
/// What NetworkManager reads there, and what of it is ours.
const CONNECTION: &str = ".nmconnection";
const OURS: &str = "mbl-";
/// The longest file that is read back.
const MAX_BYTES: usize = 64 * 1024;

/// Settings are for everybody's eyes; chrony reads them as a user of its own.
const EVERYBODY: u32 = 0o644;
const EVERYBODY_FOLDER: u32 = 0o755;
/// NetworkManager refuses connections that others could read.
const ROOT_ALONE: u32 = 0o600;

/// Waits until nobody else changes settings; until the lock is dropped, nobody else does.
pub(super) fn lock(place: &Place) -> Result<fs::File, SettingsError> {
    let path = place.device_dir.join(LOCK);
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(SettingsError::file("open", &path))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| SettingsError::file("lock", &path)(e.into()))?;
    Ok(file)
}

/// The document of the release from which the files were rendered last; none without one.
pub(super) fn document(place: &Place) -> Result<Option<Vec<u8>>, SettingsError> {
    Ok(read(place, DOCUMENT)?.filter(|bytes| !bytes.is_empty()))
}

/// What the service had given when the files were rendered last; none if it had given nothing.
pub(super) fn given(place: &Place) -> Result<Option<Vec<u8>>, SettingsError> {
    read(place, GIVEN)
}

/// A file of our folder, if it is there.
fn read(place: &Place, name: &str) -> Result<Option<Vec<u8>>, SettingsError> {
    let path = place.device_dir.join(FOLDER).join(name);
    read_if_there(&path, MAX_BYTES).map_err(SettingsError::file("read", &path))
}

/// Puts the files in their places: either all of a folder's or none.
pub(super) fn put(place: &Place, rendered: &Rendered) -> Result<(), SettingsError> {
    let folder = place.device_dir.join(FOLDER);
    let next = folder.with_extension("next");
    remove_all(&next)?;
    make_folder(&next)?;
    for (name, bytes) in &rendered.settings {
        let path = next.join(name);
        if let Some(parent) = path.parent().filter(|parent| *parent != next) {
            make_folder(parent)?;
        }
        write(&path, bytes, EVERYBODY)?;
    }
    put_connections(&place.root.join(CONNECTIONS), rendered)?;
    remove_lasting(&place.root.join(LASTING_CONNECTIONS));
    let flags = if folder.exists() { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
    let moved = renameat_with(CWD, &next, CWD, &folder, flags).map_err(io::Error::from);
    moved.map_err(SettingsError::file("put in place", &folder))?;
    remove_all(&next)
}

fn put_connections(folder: &Path, rendered: &Rendered) -> Result<(), SettingsError> {
    fs::create_dir_all(folder).map_err(SettingsError::file("make", folder))?;
    for (name, bytes) in &rendered.connections {
        let path = folder.join(format!("{name}{CONNECTION}"));
        // NetworkManager does not look at names that begin with a dot.
        let temporary = folder.join(format!(".{name}.next"));
        write(&temporary, bytes, ROOT_ALONE)?;
        fs::rename(&temporary, &path).map_err(SettingsError::file("put in place", &path))?;
    }
    for (name, path) in connections(folder).map_err(SettingsError::file("list", folder))? {
        if !rendered.connections.contains_key(&name) {
            fs::remove_file(&path).map_err(SettingsError::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes connections of ours that NetworkManager has put where they would outlive what was rendered.
fn remove_lasting(folder: &Path) {
    let kept = connections(folder).unwrap_or_else(|cause| {
        // A newer NetworkManager keeps none there.
        if cause.kind() != io::ErrorKind::NotFound {
            warn!(%cause, "cannot list {}, so a connection that NetworkManager kept stays there", folder.display());
        }
        Vec::new()
    });
    for (name, path) in kept {
        if let Err(cause) = fs::remove_file(&path) {
            warn!(connection = name, %cause, "a connection that NetworkManager kept cannot be removed");
        }
    }
}

/// Notes that every program was told of what is in force.
pub(super) fn note_told(place: &Place) -> Result<(), SettingsError> {
    let path = place.device_dir.join(FOLDER).join(TOLD);
    fs::write(&path, "").map_err(SettingsError::file("write", &path))
}

/// What is in force; none unless every program was told of it.
pub(super) fn in_force(place: &Place) -> Option<Rendered> {
    if place.device_dir.join(FOLDER).join(TOLD).exists() { files(place) } else { None }
}

/// The files that are there; none if they cannot be read.
pub(super) fn files(place: &Place) -> Option<Rendered> {
    let folder = place.device_dir.join(FOLDER);
    let mut rendered = Rendered::default();
    let mut open = vec![folder.clone()];
    while let Some(inner) = open.pop() {
        for entry in fs::read_dir(&inner).ok()? {
            let path = entry.ok()?.path();
            let name = path.strip_prefix(&folder).ok()?.to_str()?.to_owned();
            if path.is_dir() {
                open.push(path);
            } else if name != TOLD {
                rendered.settings.insert(name, read_at_most(&path, MAX_BYTES).ok()?);
            }
        }
    }
    for (name, path) in connections(&place.root.join(CONNECTIONS)).ok()? {
        rendered.connections.insert(name, read_at_most(&path, MAX_BYTES).ok()?);
    }
    Some(rendered)
}

/// Connections of ours, by name.
fn connections(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(CONNECTION));
        if let Some(name) = name.filter(|name| name.starts_with(OURS)) {
            found.push((name.to_owned(), path.clone()));
        }
    }
    Ok(found)
}

fn make_folder(path: &Path) -> Result<(), SettingsError> {
    fs::create_dir_all(path).map_err(SettingsError::file("make", path))?;
    set_mode(path, EVERYBODY_FOLDER)
}

/// Writes a file that nobody looks at yet.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SettingsError> {
    fs::write(path, bytes).map_err(SettingsError::file("write", path))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), SettingsError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(SettingsError::file("set the mode of", path))
}

/// Removes a folder of ours, if there is one.
fn remove_all(path: &Path) -> Result<(), SettingsError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SettingsError::file("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}
