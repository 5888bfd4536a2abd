//! What the updater says: to its peers behind the sockets, and into files for whoever asks later. Never hears anything.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::{
    AppName, Reason, UpdateStatus,
    socket::{Fetch, UpdaterToAgent, UpdaterToApps},
};
use tracing::warn;

use crate::{
    perform::Peers,
    record::Origin,
    settings::{self, Place},
    socket::{Links, Peer},
};

/// The newest report, for `mbl-updater status`.
pub(crate) const STATUS: &str = "run/update-status.json";

/// The peers behind the sockets, and a file for `mbl-updater status`.
#[derive(Debug)]
pub(crate) struct Speakers {
    links: Links,
    status_file: PathBuf,
    place: Place,
    /// Whether all documents since the system's start were what was rendered at it, so that nobody has been told to look at them.
    hold_since_boot: bool,
}

impl Speakers {
    /// Whoever listens on `links`, and the files of the device in `place`.
    pub(crate) fn new(links: Links, place: Place) -> Self {
        // An earlier process of ours may have ended in between, and left no other trace.
        let hold_since_boot = !place.device_dir.join(settings::DOCUMENTS).exists();
        Self { links, status_file: place.device_dir.join(STATUS), place, hold_since_boot }
    }

    /// Whether a peer is there now.
    pub(crate) fn reach(&self, peer: Peer) -> bool {
        self.links.has(peer)
    }

    /// Says something to a peer that is not meant for all.
    pub(crate) fn say(&self, peer: Peer, message: &UpdaterToAgent) {
        self.links.say(peer, message);
    }
}

impl Peers for Speakers {
    fn fetch(&mut self, origin: Origin, id: u64, what: Fetch) -> bool {
        let peer = match origin {
            Origin::Service => Peer::Agent,
            Origin::Folder => Peer::Installer,
        };
        self.links.say(peer, &UpdaterToAgent::Fetch { id, what })
    }

    fn tell_apps(&mut self, message: UpdaterToApps) {
        // If it is not there now, all that counts is repeated when it comes.
        self.links.say(Peer::Apps, &message);
    }

    fn configure(&mut self, documents: &[(AppName, Vec<u8>)]) {
        let written = write_configurations(&self.place.device_dir.join(settings::DOCUMENTS), documents);
        self.hold_since_boot &= written.is_ok() && settings::hold_since_boot(&self.place, documents);
        if self.hold_since_boot {
            return;
        }
        // Made anew whenever the documents may have changed.
        if let Err(e) = written.and_then(|()| fs::write(self.place.device_dir.join(settings::CHANGED), "")) {
            warn!(cause = %e, "cannot put the configuration in force");
        }
    }

    fn report(&mut self, status: &UpdateStatus) {
        let message = UpdaterToAgent::Status(Box::new(status.clone()));
        for peer in [Peer::Agent, Peer::Installer] {
            self.links.say(peer, &message);
        }
        if let Err(e) = write_status(&self.status_file, status) {
            warn!(cause = %e, "cannot leave the status for `mbl-updater status`");
        }
    }

    fn answer_reset(&mut self, refused: Option<Reason>) {
        self.links.say(Peer::Installer, &UpdaterToAgent::Reset { refused });
    }

    fn say_goodbye(&mut self) {
        for peer in [Peer::Agent, Peer::Installer] {
            self.links.say(peer, &UpdaterToAgent::Restarting);
        }
    }
}

/// Makes `run/configuration` hold exactly these documents.
fn write_configurations(folder: &Path, documents: &[(AppName, Vec<u8>)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let names: Vec<String> = documents.iter().map(|(name, _)| format!("{name}.json")).collect();
    for ((_, bytes), name) in documents.iter().zip(&names) {
        let temporary = folder.join(format!("{name}.tmp"));
        fs::write(&temporary, bytes)?;
        fs::rename(&temporary, folder.join(name))?;
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !names.iter().any(|name| entry.file_name() == name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Replaces the status at once, but not durably: `run/` is empty after a power cut anyway.
fn write_status(path: &Path, status: &UpdateStatus) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(status)?)?;
    fs::rename(&temporary, path)
}
