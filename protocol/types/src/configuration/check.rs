//! Rules of a configuration that its types cannot hold: counts, ranges, and what must stand together.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
};

use super::{Configuration, InterfaceSettings};

impl Configuration {
    /// What is wrong with a value by itself.
    pub(super) fn check_values(&self) -> Result<(), String> {
        let servers = self.time_servers.as_deref().unwrap_or_default();
        at_most("`time_servers`", servers.len(), Self::MAX_TIME_SERVERS)?;
        if let Some((_, twice)) = servers.iter().enumerate().find(|(n, server)| servers[..*n].contains(server)) {
            return Err(format!("`time_servers` names {twice} twice"));
        }
        at_most("`applications`", self.applications.as_ref().map_or(0, |all| all.len()), Self::MAX_APPLICATIONS)?;
        if let Some(limit) = self.contact_limit_s.filter(|limit| !Self::CONTACT_LIMIT_S.contains(limit)) {
            let (least, most) = (Self::CONTACT_LIMIT_S.start(), Self::CONTACT_LIMIT_S.end());
            return Err(format!("`contact_limit_s` is {limit}, but must be from {least} to {most}"));
        }
        let interfaces = self.network.iter().flatten();
        at_most("`network`", interfaces.clone().count(), Self::MAX_INTERFACES)?;
        for (name, settings) in interfaces {
            let checked = settings.as_ref().map_or(Ok(()), InterfaceSettings::check);
            checked.map_err(|rule| format!("`network.{name}` {rule}"))?;
        }
        Ok(())
    }

    /// What is missing beside something else that is there.
    pub(super) fn check_together(&self) -> Result<(), String> {
        if let Some(window) = &self.update_window {
            match (window.from, window.to) {
                (Some(from), Some(to)) if from == to => return Err("`update_window` has no minute".to_owned()),
                (Some(_), Some(_)) | (None, None) => {}
                (None, Some(_)) => return Err("`update_window` has a `to` but no `from`".to_owned()),
                (Some(_), None) => return Err("`update_window` has a `from` but no `to`".to_owned()),
            }
        }
        for (name, settings) in self.network.iter().flatten() {
            let Some(settings) = settings else { continue };
            let addresses = settings.addresses.as_deref().unwrap_or_default();
            let is_reachable = |gateway: IpAddr| addresses.iter().any(|a| a.address.is_ipv4() == gateway.is_ipv4());
            if let Some(gateway) = settings.gateway.filter(|gateway| !is_reachable(*gateway)) {
                return Err(format!("`network.{name}` has the gateway {gateway} but no address of its version"));
            }
        }
        Ok(())
    }
}

impl InterfaceSettings {
    fn check(&self) -> Result<(), String> {
        let addresses = self.addresses.as_deref().unwrap_or_default();
        let dns = self.dns.as_deref().unwrap_or_default();
        at_most("`addresses`", addresses.len(), Configuration::MAX_ADDRESSES)?;
        at_most("`dns`", dns.len(), Configuration::MAX_ADDRESSES)?;
        let own = addresses.iter().map(|address| address.address);
        let mut all = own.chain(self.gateway).chain(dns.iter().copied());
        match all.find(|address| !is_one_host(address)) {
            Some(address) => Err(format!("names {address}, which is no address of one host")),
            None => Ok(()),
        }
    }
}

fn at_most(what: impl Display, count: usize, limit: usize) -> Result<(), String> {
    if count > limit { Err(format!("{what} has {count} entries, at most {limit} are allowed")) } else { Ok(()) }
}

/// Whether it can be the address of one machine.
fn is_one_host(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && *address != IpAddr::V4(Ipv4Addr::BROADCAST)
}
