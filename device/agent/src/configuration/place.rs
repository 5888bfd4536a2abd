//! Where settings are in force on the board `host`: files that stand for its operating system, in a folder of the agent's own. Never
//! decides which settings.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use protocol_types::{Configuration, DeviceConfiguration, Digest, LogLevel};
use serde_json::Value;

use super::Wish;
use crate::durable::{self, DurableError};

/// The document itself; written last, so that it is there only beside files that it has made.
const DOCUMENT: &str = "document.json";
/// The longest file.
const MAX_BYTES: usize = Configuration::MAX_BYTES;
/// The interface of the board `host` that stands for its network: connections to the service leave from its first address.
const INTERFACE: &str = "host0";

/// A folder in which each setting is a file.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// The settings in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Brings a document into force: all its files, and none that another one has left.
    ///
    /// # Errors
    /// If a file cannot be written or removed; some of them may be by then.
    pub fn apply(&self, wish: Option<&Wish>) -> Result<(), DurableError> {
        durable::make_folder(&self.folder, true)?;
        durable::remove(&self.folder.join(DOCUMENT))?;
        let files = wish.map(|wish| files(&wish.settings())).unwrap_or_default();
        for name in self.present()? {
            if !files.contains_key(&name) {
                durable::remove(&self.folder.join(&name))?;
            }
        }
        for (name, text) in &files {
            durable::replace(&self.folder.join(name), text.as_bytes(), 0o644)?;
        }
        match wish {
            Some(wish) => durable::replace(&self.folder.join(DOCUMENT), wish.document().as_bytes(), 0o644),
            None => Ok(()),
        }
    }

    /// Digest of the document in force. Files that are not as the document makes them have a digest of their own.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn digest(&self) -> Result<Option<Digest>, DurableError> {
        let Some(document) = durable::read(&self.folder.join(DOCUMENT), MAX_BYTES)? else { return Ok(None) };
        // One that somebody else has put there may break a rule; no files are as such a document makes them.
        let wanted = DeviceConfiguration::parse(&document).ok().map(|read| files(&read.settings));
        let mut found = BTreeMap::new();
        for name in self.present()? {
            let bytes = durable::read(&self.folder.join(&name), MAX_BYTES)?.unwrap_or_default();
            found.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
        if wanted.as_ref() == Some(&found) {
            return Ok(Some(Digest::of(&document)));
        }
        let all: Vec<String> =
            found.into_iter().map(|(name, text)| format!("{name}\n{}\n{text}", text.len())).collect();
        Ok(Some(Digest::of(all.concat().as_bytes())))
    }

    /// Names of the files that are there, apart from the document and what a power cut left half written.
    fn present(&self) -> Result<Vec<String>, DurableError> {
        let names = durable::names(&self.folder)?;
        Ok(names.into_iter().filter(|name| name != DOCUMENT && !name.starts_with('.')).collect())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

/// From which address connections to the service leave; none if the system chooses.
pub(super) fn source_address(settings: &Configuration) -> Option<IpAddr> {
    let interfaces = settings.network.as_ref()?;
    let (_, host) = interfaces.iter().find(|(name, _)| name.as_str() == INTERFACE)?;
    host.as_ref()?.addresses.as_ref()?.first().map(|address| address.address)
}

/// The files of a document, by name.
fn files(settings: &Configuration) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut add = |name: &str, text: String| drop(files.insert(name.to_owned(), text));
    if let Some(hostname) = &settings.hostname {
        add("hostname", format!("{hostname}\n"));
    }
    if let Some(servers) = &settings.time_servers {
        add("time-servers.sources", servers.iter().map(|server| format!("server {server} iburst\n")).collect());
    }
    if let Some(levels) = &settings.log_levels {
        let all = [("agent", levels.agent), ("updater", levels.updater), ("apps", levels.apps)];
        for (process, level) in all.into_iter().filter_map(|(process, level)| Some((process, level?))) {
            add(&format!("{process}.environment"), format!("MBL_LOG_LEVEL={}\n", LogLevel::as_str(level)));
        }
    }
    if let Some(window) = &settings.update_window
        && let (Some(from), Some(to)) = (window.from, window.to)
    {
        add("update-window", format!("{from} {to}\n"));
    }
    if let Some(network) = &settings.network {
        for (interface, of_interface) in network {
            add(&format!("network-{interface}.json"), json(&serde_json::to_value(of_interface).unwrap_or_default()));
        }
    }
    for (name, of_app) in settings.applications.iter().flatten() {
        add(&format!("application-{name}.json"), json(&of_app.clone().map(Value::Object).unwrap_or_default()));
    }
    files
}

fn json(value: &Value) -> String {
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn wish(document: &str) -> Wish {
        Wish::new(1, document).unwrap()
    }

    const FIRST: &str = r#"{"applications":{"hello":{"greeting":"hi"}},"hostname":"kiln-7","log_levels":{"agent":"debug"},"network":{"host0":{"addresses":["127.0.0.2/8"]}},"time_servers":["ntp.example"],"update_window":{"from":"22:00","to":"04:30"}}"#;

    #[test]
    fn each_setting_is_a_file_and_the_next_document_leaves_none_of_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path().join("settings"));
        assert_eq!(place.digest().unwrap(), None);
        place.apply(Some(&wish(FIRST))).unwrap();
        for (name, text) in [
            ("hostname", "kiln-7\n"),
            ("time-servers.sources", "server ntp.example iburst\n"),
            ("agent.environment", "MBL_LOG_LEVEL=debug\n"),
            ("update-window", "22:00 04:30\n"),
            ("network-host0.json", "{\"addresses\":[\"127.0.0.2/8\"]}\n"),
            ("application-hello.json", "{\"greeting\":\"hi\"}\n"),
            ("document.json", FIRST),
        ] {
            assert_eq!(fs::read_to_string(place.path().join(name)).unwrap(), text, "{name}");
        }
        assert_eq!(place.digest().unwrap(), Some(wish(FIRST).digest()));
        assert_eq!(source_address(&wish(FIRST).settings()), Some("127.0.0.2".parse().unwrap()));

        place.apply(Some(&wish(r#"{"hostname":"b"}"#))).unwrap();
        assert_eq!(place.present().unwrap(), ["hostname"]);
        place.apply(None).unwrap();
        assert_eq!((place.present().unwrap().len(), place.digest().unwrap()), (0, None));
    }

    #[test]
    fn what_somebody_else_changed_shows_in_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path());
        place.apply(Some(&wish(FIRST))).unwrap();
        fs::write(folder.path().join("hostname"), "mine\n").unwrap();
        let changed = place.digest().unwrap().unwrap();
        assert_ne!(changed, wish(FIRST).digest());
        fs::remove_file(folder.path().join("hostname")).unwrap();
        let gone = place.digest().unwrap().unwrap();
        assert!(gone != changed && gone != wish(FIRST).digest());
        place.apply(Some(&wish(FIRST))).unwrap();
        assert_eq!(place.digest().unwrap(), Some(wish(FIRST).digest()));
    }

    #[test]
    fn a_document_that_breaks_a_rule_is_not_in_force_even_where_there_are_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path());
        let broken = r#"{"hostnam":"a"}"#;
        fs::write(folder.path().join(DOCUMENT), broken).unwrap();
        let shown = place.digest().unwrap().unwrap();
        assert_ne!(shown, Digest::of(broken.as_bytes()));
    }
}
