//! The agent's settings and those of its board: two TOML files, unknown keys refused. Never reads the environment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::durable::{self, DurableError};

/// The settings, each with a default that suits a device on an ordinary network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Hosts as `HOST:PORT` besides the service whose answer, even a refusal, proves that the network works; at most 8.
    pub contact_probes: Vec<String>,
    /// Who made the device, resource 3/0/0; at most 64 characters.
    pub manufacturer: String,
    /// The longest wait between two tries to reach the service, in seconds, 1 to 3600.
    pub retry_ceiling_s: u64,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self { contact_probes: Vec::new(), manufacturer: "Mbed Linux OS".to_owned(), retry_ceiling_s: 120 }
    }
}

/// What a board says about itself, in its read-only root: a factory reset and the service leave it alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardConfig {
    /// The token that holds the device key.
    pub key_store: TokenConfig,
}

/// A token that is reached through PKCS#11.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The library that speaks for the token.
    pub module: PathBuf,
    /// The token's label, 1 to 32 printable ASCII characters.
    pub token: String,
    /// The file whose first line is the PIN; the factory step makes it.
    pub pin_file: PathBuf,
    /// The TPM behind the token, if it is one: the factory step turns its lockout off.
    pub tpm: Option<PathBuf>,
    /// The file in which the library has its keys, if each start of the agent finds the one of the factory there: the agent then keeps a
    /// copy once it has made a key of its own.
    pub store: Option<PathBuf>,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot load the settings")]
    Read(#[from] DurableError),
    /// The text is not the TOML form of the settings.
    #[error("the settings do not have the expected form")]
    Malformed(#[from] toml::de::Error),
    /// The text is not UTF-8.
    #[error("the settings are not UTF-8 text")]
    Encoding(#[from] std::string::FromUtf8Error),
    /// The file of the board is missing, although it was named.
    #[error("there are no settings of the board in {}", .0.display())]
    NoBoard(PathBuf),
    /// A value that is out of its range.
    #[error("the setting `{0}` is out of its range: it must be {1}")]
    Range(&'static str, &'static str),
}

/// The longest file of settings in bytes.
const MAX_BYTES: usize = 16 * 1024;

/// Reads the settings from their text.
pub fn parse(text: &str) -> Result<AgentConfig, ConfigError> {
    let config: AgentConfig = toml::from_str(text)?;
    let host_and_port = |probe: &String| {
        probe.len() <= 255
            && probe.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if config.contact_probes.len() > 8 || !config.contact_probes.iter().all(host_and_port) {
        return Err(ConfigError::Range("contact_probes", "at most 8 texts of the form HOST:PORT"));
    }
    if config.manufacturer.is_empty() || config.manufacturer.chars().count() > 64 {
        return Err(ConfigError::Range("manufacturer", "1 to 64 characters"));
    }
    if !(1..=3600).contains(&config.retry_ceiling_s) {
        return Err(ConfigError::Range("retry_ceiling_s", "1 to 3600 seconds"));
    }
    Ok(config)
}

/// Reads the settings from a file; without the file the defaults hold.
pub fn load(path: &Path) -> Result<AgentConfig, ConfigError> {
    match durable::read(path, MAX_BYTES)? {
        None => Ok(AgentConfig::default()),
        Some(bytes) => parse(&String::from_utf8(bytes)?),
    }
}

/// Reads the settings of a board from their text.
pub fn parse_board(text: &str) -> Result<BoardConfig, ConfigError> {
    let config: BoardConfig = toml::from_str(text)?;
    let TokenConfig { module, token, pin_file, tpm, store } = &config.key_store;
    // A library by a bare name would be searched for in places that are not part of the verified root.
    let optional = [("tpm", tpm.as_ref()), ("store", store.as_ref())];
    for (name, path) in [("module", Some(module)), ("pin_file", Some(pin_file))].into_iter().chain(optional) {
        if path.is_some_and(|path| !path.is_absolute()) {
            return Err(ConfigError::Range(name, "an absolute path"));
        }
    }
    let printable = token.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    // Tokens pad their labels with spaces.
    if !(1..=32).contains(&token.len()) || !printable || token.ends_with(' ') {
        return Err(ConfigError::Range("token", "1 to 32 printable ASCII characters, the last one no space"));
    }
    Ok(config)
}

/// Reads the settings of a board from a file.
pub fn load_board(path: &Path) -> Result<BoardConfig, ConfigError> {
    let bytes = durable::read(path, MAX_BYTES)?.ok_or_else(|| ConfigError::NoBoard(path.to_owned()))?;
    parse_board(&String::from_utf8(bytes)?)
}

impl AgentConfig {
    /// The longest wait between two tries to reach the service.
    pub const fn retry_ceiling(&self) -> Duration {
        Duration::from_secs(self.retry_ceiling_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let refused = parse("contact_probe = []").unwrap_err();
        assert!(std::error::Error::source(&refused).unwrap().to_string().contains("contact_probe"), "{refused:?}");
    }

    #[test]
    fn a_value_out_of_range_is_refused() {
        for bad in ["retry_ceiling_s = 0", "retry_ceiling_s = 3601", "manufacturer = ''", "contact_probes = ['host']"] {
            assert!(matches!(parse(bad), Err(ConfigError::Range(..))), "{bad}");
        }
    }

    #[test]
    fn every_setting_is_in_the_reference_page_with_its_default() {
        let page = include_str!("../../../docs/formats/host-board.md");
        let AgentConfig { contact_probes, manufacturer, retry_ceiling_s } = AgentConfig::default();
        for (key, default) in [
            ("contact_probes", format!("{contact_probes:?}")),
            ("manufacturer", manufacturer),
            ("retry_ceiling_s", retry_ceiling_s.to_string()),
        ] {
            assert!(page.contains(&format!("| `{key}` | `{default}` |")), "{key}");
        }
    }

    const BOARD: &str = "[key_store]\nmodule = '/usr/lib/pkcs11.so'\ntoken = 'mbl'\npin_file = '/factory/pin'\n";

    #[test]
    fn a_board_that_leaves_its_key_store_open_is_refused() {
        assert_eq!(parse_board(BOARD).unwrap().key_store.tpm, None);
        for (from, to) in [("module", "modul"), ("token = 'mbl'", ""), ("[key_store]", "[keystore]")] {
            assert!(matches!(parse_board(&BOARD.replace(from, to)), Err(ConfigError::Malformed(_))), "{to}");
        }
        for (from, to) in [("'/usr", "'usr"), ("'/factory", "'factory"), ("'mbl'", "''"), ("'mbl'", "'mbl '")] {
            assert!(matches!(parse_board(&BOARD.replace(from, to)), Err(ConfigError::Range(..))), "{to}");
        }
        let relative = parse_board(&format!("{BOARD}store = 'keys.sqlite3'\n"));
        assert!(matches!(relative, Err(ConfigError::Range("store", _))), "{relative:?}");
        assert!(matches!(load_board(Path::new("/nonexistent/board.toml")), Err(ConfigError::NoBoard(_))));
    }

    #[test]
    fn without_a_file_the_defaults_hold() {
        assert_eq!(load(Path::new("/nonexistent/config.toml")).unwrap(), parse("").unwrap());
    }
}
