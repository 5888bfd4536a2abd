//! The agent's settings: one optional TOML file, unknown keys refused. Never reads the environment.

use std::{path::Path, time::Duration};

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

    #[test]
    fn without_a_file_the_defaults_hold() {
        assert_eq!(load(Path::new("/nonexistent/config.toml")).unwrap(), parse("").unwrap());
    }
}
