//! Object 4, Connectivity Monitoring: over which kind of network, with which address and signal. Reads what the kernel shows
//! under `/proc/net`; never changes a network.

use std::net::IpAddr;

use protocol_lwm2m::{
    client::{ObjectError, Reading},
    formats::Value,
};

use super::integer;
use crate::durable;

/// The kind of network, by the numbers of resource 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bearer {
    /// A cellular modem; which generation it uses is the modem's affair.
    Cellular = 7,
    /// Wireless LAN.
    Wlan = 21,
    /// Ethernet, and what looks like it.
    #[default]
    Ethernet = 41,
}

/// How the device was connected when it last reached the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connectivity {
    bearer: Bearer,
    /// Received signal strength in dBm; 0 where there is no radio.
    signal_dbm: i64,
    address: Option<IpAddr>,
}

/// The longest of the kernel's tables that is read, in bytes.
const MAX_TABLE: usize = 64 * 1024;

impl Connectivity {
    /// Looks up the interface of the default route for a connection that leaves from `address`.
    pub(super) fn find(address: IpAddr) -> Self {
        let table = |path| {
            let bytes = durable::read(std::path::Path::new(path), MAX_TABLE).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self::from_tables(address, &table("/proc/net/route"), &table("/proc/net/wireless"))
    }

    fn from_tables(address: IpAddr, routes: &str, radios: &str) -> Self {
        let interface = default_interface(routes).unwrap_or_default();
        let signal = signal(radios, interface);
        let bearer = match signal {
            Some(_) => Bearer::Wlan,
            None if interface.starts_with("ww") || interface.starts_with("ppp") => Bearer::Cellular,
            None => Bearer::Ethernet,
        };
        Self { bearer, signal_dbm: signal.unwrap_or(0), address: Some(address) }
    }

    pub(super) fn read(&self, resource: u16) -> Result<Reading, ObjectError> {
        let bearer = Value::Integer(self.bearer as i64);
        Ok(match resource {
            0 => Reading::Single(bearer),
            1 => Reading::Multiple(vec![(0, bearer)]),
            2 => integer(self.signal_dbm),
            4 => {
                Reading::Multiple(self.address.iter().map(|address| (0, Value::String(address.to_string()))).collect())
            }
            _ => return Err(ObjectError::NotFound),
        })
    }
}

/// The interface of the first route to everywhere in `/proc/net/route`.
fn default_interface(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let interface = columns.next()?;
        (columns.next()? == "00000000").then_some(interface)
    })
}

/// The signal level of an interface in `/proc/net/wireless`, in dBm.
fn signal(radios: &str, interface: &str) -> Option<i64> {
    radios.lines().skip(2).find_map(|line| {
        let (name, columns) = line.trim_start().split_once(':')?;
        let level = columns.split_ascii_whitespace().nth(2)?.trim_end_matches('.');
        (name == interface).then(|| level.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway\nwlan0\t0000A8C0\t00000000\nwlan0\t00000000\t0100A8C0\n";
    const RADIOS: &str =
        "Inter-| sta-|   Quality        |\n face | tus | link level noise |\n wlan0: 0000   54.  -56.  -256        0\n";

    #[test]
    fn the_interface_of_the_default_route_decides() {
        let address = "192.168.0.7".parse().unwrap();
        let wlan = Connectivity::from_tables(address, ROUTES, RADIOS);
        assert_eq!((wlan.bearer, wlan.signal_dbm), (Bearer::Wlan, -56));
        let ethernet = Connectivity::from_tables(address, ROUTES, "");
        assert_eq!((ethernet.bearer, ethernet.signal_dbm), (Bearer::Ethernet, 0));
        let modem = Connectivity::from_tables(address, &ROUTES.replace("wlan0", "wwan0"), "");
        assert_eq!(modem.bearer, Bearer::Cellular);
        assert_eq!(wlan.read(4).unwrap(), Reading::Multiple(vec![(0, Value::String("192.168.0.7".to_owned()))]));
    }

    #[test]
    fn tables_of_any_form_are_read_without_panic() {
        for table in ["", "\n\n\n", "a\n:\n::\n", "x\ny\nwlan0: 1", "x\ny\nwlan0: 1 2 z."] {
            let found = Connectivity::from_tables("::1".parse().unwrap(), table, table);
            assert_eq!(found.bearer, Bearer::Ethernet);
        }
    }
}
