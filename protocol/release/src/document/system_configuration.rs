//! The configuration document `system`: the settings of a device's operating system. Never says how a program is told them.

use std::net::{IpAddr, Ipv4Addr};

use protocol_types::{HostName, InterfaceAddress, InterfaceName, LogLevel, ServerName};
use serde::{Deserialize, Serialize};

use super::{
    DocumentError, FormatOne,
    json::{self, JsonDocument},
};

/// Settings of the operating system of a device (`docs/formats/system-configuration.md`). What is left out is as the image has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemConfiguration {
    /// Version of this format.
    pub format: FormatOne,
    /// What the device calls itself, instead of the name by its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
    /// Where it asks for the time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub time_servers: Vec<ServerName>,
    /// How much the device's own processes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// How much room the journal has, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_mib: Option<u32>,
    /// How interfaces join the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<Connection>,
}

/// How one interface joins the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// What the interface is.
    pub kind: ConnectionKind,
    /// The interface.
    pub interface: InterfaceName,
    /// Its IPv4; without it, DHCP decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ip>,
    /// Its IPv6; without it, router advertisements decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ip>,
}

/// What an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionKind {
    /// A cable.
    Ethernet,
}

/// One version of the Internet protocol on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ip {
    /// The interface's addresses; without any, the network gives it one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<InterfaceAddress>,
    /// Where packets for everybody else go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Name servers, before those that the network names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
}

impl SystemConfiguration {
    /// The name of the configuration whose documents are of this kind.
    pub const NAME: &'static str = "system";
    /// Upper bound for the JSON text in bytes.
    pub const MAX_BYTES: usize = 16 * 1024;
    /// The most time servers.
    pub const MAX_TIME_SERVERS: usize = 8;
    /// The most connections.
    pub const MAX_CONNECTIONS: usize = 8;
    /// The most addresses, and the most name servers, of one IP version of a connection.
    pub const MAX_ADDRESSES: usize = 4;
    /// What the journal may have, in MiB. Less holds no day; more than this would starve applications on a small medium.
    pub const JOURNAL_MIB: std::ops::RangeInclusive<u32> = 8..=512;

    /// Reads the JSON text.
    ///
    /// # Errors
    /// If the bytes are not a document of format 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        json::parse(bytes)
    }

    /// Writes the JSON text.
    ///
    /// # Errors
    /// If a rule of the format is broken.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        json::to_bytes(self)
    }
}

impl JsonDocument for SystemConfiguration {
    const KIND: &'static str = "system configuration";
    const LIMIT: usize = Self::MAX_BYTES;

    fn check(&self) -> Result<(), DocumentError> {
        at_most("time_servers", self.time_servers.len(), Self::MAX_TIME_SERVERS)?;
        at_most("network", self.network.len(), Self::MAX_CONNECTIONS)?;
        if let Some(mib) = self.journal_mib
            && !Self::JOURNAL_MIB.contains(&mib)
        {
            let (least, most) = (Self::JOURNAL_MIB.start(), Self::JOURNAL_MIB.end());
            return broken(format!("`journal_mib` is {mib}, but must be from {least} to {most}"));
        }
        for (number, server) in self.time_servers.iter().enumerate() {
            if self.time_servers.iter().take(number).any(|other| other == server) {
                return broken(format!("`time_servers` names {server} twice"));
            }
        }
        for (number, connection) in self.network.iter().enumerate() {
            if self.network.iter().take(number).any(|other| other.interface == connection.interface) {
                return broken(format!("`network` has two connections for {}", connection.interface));
            }
            connection.check().or_else(|rule| broken(format!("`network`, {}: {rule}", connection.interface)))?;
        }
        Ok(())
    }
}

fn broken<T>(rule: String) -> Result<T, DocumentError> {
    Err(DocumentError::rule(SystemConfiguration::KIND, rule))
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), DocumentError> {
    if count > limit { broken(format!("`{what}` has {count} entries, at most {limit} are allowed")) } else { Ok(()) }
}

impl Connection {
    fn check(&self) -> Result<(), String> {
        for (name, ip, is_of_version) in
            [("ipv4", &self.ipv4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("ipv6", &self.ipv6, IpAddr::is_ipv6)]
        {
            if let Some(ip) = ip {
                ip.check(is_of_version).map_err(|rule| format!("`{name}` {rule}"))?;
            }
        }
        Ok(())
    }
}

impl Ip {
    fn check(&self, is_of_version: fn(&IpAddr) -> bool) -> Result<(), String> {
        for (name, count) in [("addresses", self.addresses.len()), ("dns", self.dns.len())] {
            if count > SystemConfiguration::MAX_ADDRESSES {
                let limit = SystemConfiguration::MAX_ADDRESSES;
                return Err(format!("has {count} entries in `{name}`, at most {limit} are allowed"));
            }
        }
        if self.gateway.is_some() && self.addresses.is_empty() {
            return Err("has a `gateway` but no `addresses`".to_owned());
        }
        let own = self.addresses.iter().map(|address| &address.address);
        let all = own.chain(&self.gateway).chain(&self.dns);
        match all.into_iter().find(|address| !is_of_version(address) || !is_one_host(address)) {
            Some(address) => Err(format!("names {address}, which is no address of a host of its version")),
            None => Ok(()),
        }
    }
}

/// Whether it can be the address of one machine.
fn is_one_host(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && *address != IpAddr::V4(Ipv4Addr::BROADCAST)
}
