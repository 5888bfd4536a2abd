//! A checkpoint of NetworkManager under a network that is on trial: what brings the former network back if nobody says in time that the new
//! one is good, whatever becomes of the processes of the device. NetworkManager keeps the checkpoint; where it is stands below `/run`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use protocol_types::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::{info, warn};

use super::{Place, render::Rendered};
use crate::files::read_at_most;

/// Speaks D-Bus, from the top of the root on.
pub(super) const BUSCTL: &str = "usr/bin/busctl";
/// Where the checkpoint is noted, in the device's folder.
const NOTE: &str = "run/checkpoint.json";
/// The longest note.
const MAX_BYTES: usize = 4096;
/// Whom a call is for. `org.freedesktop.NetworkManager` in NetworkManager's own documentation says what each of them means.
const MANAGER: [&str; 3] =
    ["org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager"];
/// How the program is called: the answer as JSON, within this time.
const CALL: [&str; 4] = ["--system", "--json=short", "--timeout=30", "call"];
/// All devices. In the place of any older checkpoint (1), and connections that were made since go away with it (2).
const ALL_DEVICES: &str = "0";
const FLAGS: &str = "3";

/// A checkpoint that NetworkManager did not make or does not know any more.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The program that asks it cannot be started.
    #[error("cannot run {}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It said no.
    #[error("NetworkManager refused `{method}`: {said}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// Its answer.
        said: String,
    },
    /// It said something else than expected.
    #[error("NetworkManager's answer to `{method}` cannot be read")]
    Answer {
        /// What was asked.
        method: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Where the checkpoint is cannot be noted.
    #[error("cannot write {}", path.display())]
    Note {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What is noted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// The checkpoint's place on the bus.
    checkpoint: String,
    /// Digest of the connections to which it goes back.
    connections: Digest,
}

/// What busctl writes.
#[derive(Debug, Deserialize)]
struct Said<T> {
    data: Vec<T>,
}

/// Lets NetworkManager go back to the network of now by itself after `seconds`, or to that of the checkpoint that is held already.
pub(super) fn hold(place: &Place, now: Option<&Rendered>, seconds: u32) -> Result<(), CheckpointError> {
    if extend(place, seconds) {
        return Ok(());
    }
    let words = ["aouu", ALL_DEVICES, &seconds.to_string(), FLAGS];
    let made: Said<String> = call(place, "CheckpointCreate", &words)?;
    let Some(checkpoint) = made.data.into_iter().next() else {
        return Err(CheckpointError::Refused { method: "CheckpointCreate", said: "no checkpoint".to_owned() });
    };
    info!(checkpoint, seconds, "NetworkManager goes back to the network of now unless it is told otherwise");
    let note = Note { checkpoint, connections: connections(now) };
    let path = place.device_dir.join(NOTE);
    let write = || fs::write(&path, serde_json::to_vec(&note)?);
    write().map_err(|source| CheckpointError::Note { path: path.clone(), source })
}

/// Gives whoever has to say that the network is good `seconds` from now on; false if no checkpoint is held.
pub(super) fn extend(place: &Place, seconds: u32) -> bool {
    let Some(note) = note(place) else { return false };
    let words = ["ou", &*note.checkpoint, &seconds.to_string()];
    run(place, "CheckpointAdjustRollbackTimeout", &words).is_ok()
}

/// The network is good: nobody goes back.
pub(super) fn release(place: &Place) {
    let Some(note) = note(place) else { return };
    match run(place, "CheckpointDestroy", &["o", &*note.checkpoint]) {
        Ok(_) => info!("the network is kept"),
        Err(e) => warn!(cause = %super::chain(&e), "there was no checkpoint under this network any more"),
    }
    forget(place);
}

/// Where NetworkManager has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// Nowhere: no checkpoint was held.
    NotHeld,
    /// To the connections that are wanted, with every device.
    There,
    /// To something else, or nobody knows.
    Elsewhere,
}

/// Goes back at once, if it is to the connections of `wanted` or not.
pub(super) fn go_back(place: &Place, wanted: &Rendered) -> Back {
    let Some(note) = note(place) else { return Back::NotHeld };
    let answer: Result<Said<BTreeMap<String, u32>>, _> = call(place, "CheckpointRollback", &["o", &*note.checkpoint]);
    forget(place);
    match answer {
        Ok(devices) => {
            let failed: Vec<String> =
                devices.data.into_iter().flatten().filter(|(_, why)| *why != 0).map(|(device, _)| device).collect();
            info!(?failed, "NetworkManager went back to the former network");
            let is_there = failed.is_empty() && note.connections == connections(Some(wanted));
            if is_there { Back::There } else { Back::Elsewhere }
        }
        Err(e) => {
            warn!(cause = %super::chain(&e), "NetworkManager did not go back to the former network now");
            Back::Elsewhere
        }
    }
}

/// A digest of connections.
fn connections(rendered: Option<&Rendered>) -> Digest {
    let connections = rendered.map(|rendered| rendered.connections.clone()).unwrap_or_default();
    Rendered { connections, ..Rendered::default() }.digest_with(&[])
}

fn note(place: &Place) -> Option<Note> {
    serde_json::from_slice(&read_at_most(&place.device_dir.join(NOTE), MAX_BYTES).ok()?).ok()
}

fn forget(place: &Place) {
    let path = place.device_dir.join(NOTE);
    match fs::remove_file(&path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => warn!(%cause, "cannot remove {}", path.display()),
        Ok(()) | Err(_) => {}
    }
}

fn call<T: DeserializeOwned>(place: &Place, method: &'static str, words: &[&str]) -> Result<T, CheckpointError> {
    let output = run(place, method, words)?;
    serde_json::from_slice(&output.stdout).map_err(|source| CheckpointError::Answer { method, source })
}

fn run(place: &Place, method: &'static str, words: &[&str]) -> Result<Output, CheckpointError> {
    let path = place.root.join(BUSCTL);
    let mut command = Command::new(&path);
    command.args(CALL).args(MANAGER).arg(method).args(words).stdin(Stdio::null());
    let output = command.output().map_err(|source| CheckpointError::Program { path, source })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect();
    Err(CheckpointError::Refused { method, said })
}
