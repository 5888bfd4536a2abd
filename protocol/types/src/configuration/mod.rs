//! Configuration of a device: settings that the service may change without an offline signature (`docs/formats/configuration.md`). Nothing
//! in it can change whom a device trusts or what it runs. Never merges documents and never applies one.

mod check;
mod device;
mod revision;
mod state;
mod system;
mod time_of_day;

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use device::{DeviceConfiguration, SealedSecret, SealedSecrets};
pub use revision::RevisionStanding;
pub use state::ConfigurationState;
pub use system::SystemSettings;
pub use time_of_day::TimeOfDay;

use crate::{AppName, HostName, InterfaceAddress, InterfaceName, LogLevel, ServerName};

/// A document of one level, or the one that a device gets. In a level, null takes away what the levels before it say (RFC 7396); it
/// reads as if the key were not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// What the device calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
    /// Where it asks for the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_servers: Option<Vec<ServerName>>,
    /// How much its own processes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_levels: Option<LogLevels>,
    /// When it may change its software by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_window: Option<UpdateWindow>,
    /// How interfaces join the network, by their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<BTreeMap<InterfaceName, Option<InterfaceSettings>>>,
    /// Settings of applications, by their names; the service does not know what they mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applications: Option<BTreeMap<AppName, Option<Map<String, Value>>>>,
    /// Seconds within which a device must reach the service again with new settings before it takes them back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_limit_s: Option<u32>,
}

/// The least important message of each process of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevels {
    /// `mbl-agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<LogLevel>,
    /// `mbl-updater`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updater: Option<LogLevel>,
    /// `mbl-apps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<LogLevel>,
}

/// A time of each day, by the device's own clock and zone; one that ends before it begins goes past midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateWindow {
    /// Its first minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TimeOfDay>,
    /// The first minute after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<TimeOfDay>,
}

impl UpdateWindow {
    /// Whether it is open in this minute of a day. A window that lacks an end is always open.
    pub fn is_open(&self, minute: u16) -> bool {
        let (Some(from), Some(to)) = (self.from, self.to) else { return true };
        let (from, to) = (from.minutes(), to.minutes());
        if from <= to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }
}

/// How one wired interface joins the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSettings {
    /// Its addresses; without any, the network gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<InterfaceAddress>>,
    /// Where packets for everybody else go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Name servers, before those that the network names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<IpAddr>>,
}

/// Why a text is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// It is longer than one may be.
    #[error("a configuration has at most {} bytes", Configuration::MAX_BYTES)]
    TooLong,
    /// It is no JSON of the form.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    /// It breaks a rule.
    #[error("{0}")]
    Rule(String),
}

impl Configuration {
    /// Upper bound of the text in bytes: it travels in one message of a device.
    pub const MAX_BYTES: usize = 8 * 1024;
    /// The most time servers.
    pub const MAX_TIME_SERVERS: usize = 8;
    /// The most interfaces.
    pub const MAX_INTERFACES: usize = 8;
    /// The most addresses, and the most name servers, of an interface.
    pub const MAX_ADDRESSES: usize = 4;
    /// The most applications.
    pub const MAX_APPLICATIONS: usize = 32;
    /// What `contact_limit_s` may be. Less is shorter than a device may need to dial anew.
    pub const CONTACT_LIMIT_S: std::ops::RangeInclusive<u32> = 10..=3600;
    /// What it is where no document says so.
    pub const DEFAULT_CONTACT_LIMIT_S: u32 = 300;

    /// Reads the document of one level, which the other levels may complete.
    ///
    /// # Errors
    /// If the text is not of the form, or a value breaks a rule by itself.
    pub fn parse_level(text: &[u8]) -> Result<Self, ConfigurationError> {
        if text.len() > Self::MAX_BYTES {
            return Err(ConfigurationError::TooLong);
        }
        // serde would also take a list of the fields' values, without their names.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(ConfigurationError::Rule("a configuration is a JSON object".to_owned()));
        }
        let parsed: Self = serde_json::from_slice(text)?;
        parsed.check_values().map_err(ConfigurationError::Rule)?;
        Ok(parsed)
    }

    /// Reads the document that a device gets, which must be complete in itself.
    ///
    /// # Errors
    /// As [`Self::parse_level`], or if values do not fit together.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigurationError> {
        let parsed = Self::parse_level(text)?;
        parsed.check_together().map_err(ConfigurationError::Rule)?;
        Ok(parsed)
    }

    /// Seconds within which the device must reach the service again.
    pub fn contact_limit_s(&self) -> u32 {
        self.contact_limit_s.unwrap_or(Self::DEFAULT_CONTACT_LIMIT_S)
    }
}

#[cfg(test)]
mod tests;
