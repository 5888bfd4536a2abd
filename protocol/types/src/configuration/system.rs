//! The settings of a configuration that only the operating system of a device can bring into force. Never brings any into force.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Configuration, ConfigurationError, InterfaceSettings};
use crate::{HostName, InterfaceName, ServerName};

/// What a configuration says about the operating system. Written as the JSON text of a configuration with no other keys, so that whoever
/// reads it holds it against the rules of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemSettings {
    hostname: Option<HostName>,
    time_servers: Vec<ServerName>,
    network: BTreeMap<InterfaceName, InterfaceSettings>,
}

impl SystemSettings {
    /// Upper bound of the text in bytes.
    pub const MAX_BYTES: usize = Configuration::MAX_BYTES;

    /// The part of `settings` that is about the operating system.
    pub fn of(settings: &Configuration) -> Self {
        let network = settings.network.iter().flatten();
        Self {
            hostname: settings.hostname.clone(),
            time_servers: settings.time_servers.clone().unwrap_or_default(),
            network: network.filter_map(|(name, of_one)| Some((name.clone(), of_one.clone()?))).collect(),
        }
    }

    /// Reads the text.
    ///
    /// # Errors
    /// If it is no configuration, or says something about anything else.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigurationError> {
        let settings = Configuration::parse(text)?;
        let read = Self::of(&settings);
        let only = Configuration {
            hostname: settings.hostname.clone(),
            time_servers: settings.time_servers.clone(),
            network: settings.network.clone(),
            ..Configuration::default()
        };
        if only == settings {
            Ok(read)
        } else {
            Err(ConfigurationError::Rule(
                "settings of the operating system are `hostname`, `time_servers` and `network`".into(),
            ))
        }
    }

    /// What the device calls itself, if that is said.
    pub const fn hostname(&self) -> Option<&HostName> {
        self.hostname.as_ref()
    }

    /// Where it asks for the time; empty if nothing is said.
    pub fn time_servers(&self) -> &[ServerName] {
        &self.time_servers
    }

    /// How interfaces join the network.
    pub const fn network(&self) -> &BTreeMap<InterfaceName, InterfaceSettings> {
        &self.network
    }
}

impl TryFrom<String> for SystemSettings {
    type Error = ConfigurationError;
    fn try_from(text: String) -> Result<Self, ConfigurationError> {
        Self::parse(text.as_bytes())
    }
}

impl From<SystemSettings> for String {
    fn from(SystemSettings { hostname, time_servers, network }: SystemSettings) -> Self {
        let settings = Configuration {
            hostname,
            time_servers: (!time_servers.is_empty()).then_some(time_servers),
            network: (!network.is_empty())
                .then(|| network.into_iter().map(|(name, of_one)| (name, Some(of_one))).collect()),
            ..Configuration::default()
        };
        // A configuration holds nothing that has no form in JSON: its keys are texts, and it has no numbers that are none.
        serde_json::to_string(&settings).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = r#"{"hostname":"kiln-7","time_servers":["ntp.example"],"network":{"eth0":{"addresses":["192.0.2.7/24"],"gateway":"192.0.2.1"},"eth1":null}}"#;

    #[test]
    fn what_is_about_the_operating_system_is_told_from_the_rest_and_reads_as_itself() {
        let whole = Configuration::parse(
            WHOLE
                .replacen('{', r#"{"log_levels":{"apps":"debug"},"contact_limit_s":10,"applications":{"a":{}},"#, 1)
                .as_bytes(),
        )
        .unwrap();
        let settings = SystemSettings::of(&whole);
        assert_eq!(settings.hostname().unwrap().as_str(), "kiln-7");
        assert_eq!((settings.time_servers().len(), settings.network().len()), (1, 1), "null is no interface");
        let text = String::from(settings.clone());
        assert!(!text.contains("log_levels") && !text.contains("contact"), "{text}");
        assert_eq!(SystemSettings::parse(text.as_bytes()).unwrap(), settings);
        assert_eq!(SystemSettings::parse(b"{}").unwrap(), SystemSettings::default());
        assert_eq!(String::from(SystemSettings::default()), "{}");
    }

    #[test]
    fn whoever_speaks_for_the_agent_is_held_against_the_rules_of_a_configuration() {
        for wrong in [
            r#"{"log_levels":{"apps":"debug"}}"#,
            r#"{"contact_limit_s":10}"#,
            r#"{"hostname":"Kiln 7"}"#,
            r#"{"time_servers":["a\nserver b"]}"#,
            r#"{"network":{"eth0":{"gateway":"192.0.2.1"}}}"#,
            r#"{"network":{"../x":{"addresses":["192.0.2.7/24"]}}}"#,
            "[]",
        ] {
            assert!(SystemSettings::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(SystemSettings::parse(&[b' '; SystemSettings::MAX_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            drop(SystemSettings::parse(text.as_bytes()));
        }
    }
}
