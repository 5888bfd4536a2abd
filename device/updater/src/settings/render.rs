//! From a document to the files that programs read. Never touches a disk.

use std::{collections::BTreeMap, net::IpAddr};

use protocol_release::document::{Connection, ConnectionKind, DocumentError, Ip, SystemConfiguration};
use protocol_types::{Digest, HostName, InterfaceName, LogLevel, SystemSettings, configuration::InterfaceSettings};

/// The document itself, as it was signed; empty without one.
pub(super) const DOCUMENT: &str = "system.json";
/// What the service has given, on trial or confirmed; not there if it gave nothing.
pub(super) const GIVEN: &str = "given.json";
/// What the machine is called; empty if nobody says.
pub(super) const HOSTNAME: &str = "hostname";
/// Time sources in the form of chrony; empty for those of the image.
pub(super) const TIME_SERVERS: &str = "chrony/mbl.sources";
/// journald.conf(5).
pub(super) const JOURNAL: &str = "journald.conf";
/// What the device's own processes are started with, in the form of systemd's `EnvironmentFile=`.
pub(super) const ENVIRONMENT: &str = "environment";

/// Every other wired interface: DHCP and router advertisements.
pub(super) const ANY_WIRED: &str = "mbl-wired";

/// What a document means, as files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    /// By name in the folder of ours.
    pub(super) settings: BTreeMap<String, Vec<u8>>,
    /// Connections of NetworkManager by their name.
    pub(super) connections: BTreeMap<String, Vec<u8>>,
}

impl Rendered {
    /// The files for `document`, or for none, on a machine that is called `identity` unless the document says otherwise. What the service
    /// has `given` stands in the place of what the document says: the name, the time servers as a whole, and each interface as a whole.
    pub(super) fn of(
        document: Option<&[u8]>,
        given: &SystemSettings,
        identity: Option<&HostName>,
    ) -> Result<Self, DocumentError> {
        let wanted = document.map(SystemConfiguration::parse).transpose()?.unwrap_or_default();
        let name = given.hostname().or(wanted.hostname.as_ref()).or(identity).map_or("", HostName::as_str);
        let servers = if given.time_servers().is_empty() { &*wanted.time_servers } else { given.time_servers() };
        let servers: String = servers.iter().map(|server| format!("server {server} iburst\n")).collect();
        let settings = [
            (DOCUMENT, document.unwrap_or_default().to_vec()),
            (HOSTNAME, name.into()),
            (JOURNAL, journal(wanted.journal_mib).into()),
            (ENVIRONMENT, wanted.log_level.map_or_else(String::new, environment).into()),
        ];
        let mut settings: BTreeMap<_, Vec<u8>> = settings.map(|(name, bytes)| (name.to_owned(), bytes)).into();
        // An empty file would hide the image's own sources.
        if !servers.is_empty() {
            settings.insert(TIME_SERVERS.to_owned(), servers.into());
        }
        if *given != SystemSettings::default() {
            settings.insert(GIVEN.to_owned(), String::from(given.clone()).into());
        }
        let mut connections = BTreeMap::from([(ANY_WIRED.to_owned(), any_wired().into_bytes())]);
        let given = given.network().iter().map(|(interface, of_one)| connection_of(interface, of_one));
        let network = wanted.network.into_iter().chain(given);
        connections.extend(network.map(|one| (name_of(one.interface.as_str()), connection(&one).into())));
        Ok(Self { settings, connections })
    }

    /// A digest of all files, and of what else is there.
    pub(super) fn digest_with(&self, others: &[String]) -> Digest {
        let files = self.settings.iter().chain(&self.connections);
        let mut all: Vec<u8> = files.flat_map(|(name, bytes)| part(name, bytes)).collect();
        all.extend(others.iter().flat_map(|text| part("", text.as_bytes())));
        Digest::of(&all)
    }

    /// The content of a file of ours.
    pub(super) fn setting(&self, name: &str) -> &[u8] {
        self.settings.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A name and bytes, so that no two lists of them read the same.
fn part(name: &str, bytes: &[u8]) -> Vec<u8> {
    [format!("{name}\n{}\n", bytes.len()).as_bytes(), bytes].concat()
}

/// What the service gives for an interface, by version of the Internet protocol.
fn connection_of(interface: &InterfaceName, settings: &InterfaceSettings) -> Connection {
    let of_version = |is_of_version: fn(&IpAddr) -> bool| {
        let ip = Ip {
            addresses: settings.addresses.iter().flatten().filter(|one| is_of_version(&one.address)).copied().collect(),
            gateway: settings.gateway.filter(is_of_version),
            dns: settings.dns.iter().flatten().filter(|one| is_of_version(one)).copied().collect(),
        };
        (ip != Ip::default()).then_some(ip)
    };
    Connection {
        kind: ConnectionKind::Ethernet,
        interface: interface.clone(),
        ipv4: of_version(IpAddr::is_ipv4),
        ipv6: of_version(IpAddr::is_ipv6),
    }
}

/// The name of the connection of an interface.
pub(super) fn name_of(interface: &str) -> String {
    format!("mbl-on-{interface}")
}

/// The interface whose connection has this name.
pub(super) fn interface_of(connection: &str) -> Option<&str> {
    connection.strip_prefix("mbl-on-")
}

fn environment(level: LogLevel) -> String {
    format!("MBL_LOG_LEVEL={}\n", level.as_str())
}

fn journal(mib: Option<u32>) -> String {
    let limits =
        mib.map_or_else(String::new, |mib| format!("SystemMaxUse={mib}M\nSystemMaxFileSize={}M\n", mib.div_ceil(8)));
    format!("[Journal]\n{limits}")
}

/// nm-settings-keyfile(5). Anything else comes before it.
fn any_wired() -> String {
    let head = head(ANY_WIRED, "autoconnect-priority=-100\nmulti-connect=3\n");
    let (ipv4, ipv6) = (internet("ipv4", None), internet("ipv6", None));
    format!("{head}\n{ipv4}\n{ipv6}")
}

/// nm-settings-keyfile(5) of one interface.
fn connection(connection: &Connection) -> String {
    let Connection { kind: ConnectionKind::Ethernet, interface, ipv4, ipv6 } = connection;
    let more = format!("interface-name={interface}\nautoconnect-priority=100\n");
    let head = head(&name_of(interface.as_str()), &more);
    let (ipv4, ipv6) = (internet("ipv4", ipv4.as_ref()), internet("ipv6", ipv6.as_ref()));
    format!("{head}\n{ipv4}\n{ipv6}")
}

fn head(name: &str, more: &str) -> String {
    format!("[connection]\nid={name}\nuuid={}\ntype=ethernet\n{more}", uuid(name))
}

/// One version of the Internet protocol.
fn internet(section: &str, ip: Option<&Ip>) -> String {
    let mut text = format!("[{section}]\n");
    let ip = ip.cloned().unwrap_or_default();
    text.push_str(if ip.addresses.is_empty() { "method=auto\n" } else { "method=manual\n" });
    for (number, address) in (1..).zip(&ip.addresses) {
        text.push_str(&format!("address{number}={address}\n"));
    }
    if let Some(gateway) = ip.gateway {
        text.push_str(&format!("gateway={gateway}\n"));
    }
    if !ip.dns.is_empty() {
        let servers: String = ip.dns.iter().map(|server| format!("{server};")).collect();
        text.push_str(&format!("dns={servers}\n"));
    }
    if section == "ipv6" {
        // What NetworkManager does by itself; a file without the key means something older.
        text.push_str("addr-gen-mode=stable-privacy\n");
    }
    text
}

/// Always the same for a name, so that a connection that changes is still the same one: a UUID of version 8 (RFC 9562, section 5.8).
fn uuid(name: &str) -> String {
    let digits = Digest::of(format!("connection {name}").as_bytes()).hex();
    let part = |from, to| digits.get(from..to).unwrap_or_default();
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOCUMENT_TEXT: &str = r#"{ "format": 1, "hostname": "kiln-7", "time_servers": ["ntp.example", "2001:db8::7b"], "log_level": "debug",
        "journal_mib": 100, "network": [ { "kind": "ethernet", "interface": "enp0s1",
          "ipv4": { "addresses": ["192.0.2.7/24", "192.0.2.8/24"], "gateway": "192.0.2.1", "dns": ["192.0.2.53", "192.0.2.54"] } } ] }"#;

    fn nothing() -> SystemSettings {
        SystemSettings::default()
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_setting_becomes_what_its_program_reads() {
        let identity = HostName::new("gate-1").unwrap();
        let rendered = Rendered::of(Some(DOCUMENT_TEXT.as_bytes()), &nothing(), Some(&identity)).unwrap();
        for (name, wanted) in [
            (DOCUMENT, DOCUMENT_TEXT),
            (HOSTNAME, "kiln-7"),
            (TIME_SERVERS, "server ntp.example iburst\nserver 2001:db8::7b iburst\n"),
            (JOURNAL, "[Journal]\nSystemMaxUse=100M\nSystemMaxFileSize=13M\n"),
            (ENVIRONMENT, "MBL_LOG_LEVEL=debug\n"),
        ] {
            assert_eq!(text(rendered.setting(name)), wanted, "{name}");
        }
        let names: Vec<&String> = rendered.connections.keys().collect();
        assert_eq!(names, ["mbl-on-enp0s1", "mbl-wired"]);
        assert_eq!(interface_of("mbl-on-enp0s1"), Some("enp0s1"));
        let wanted = format!(
            "[connection]\nid=mbl-on-enp0s1\nuuid={}\ntype=ethernet\ninterface-name=enp0s1\nautoconnect-priority=100\n\n\
             [ipv4]\nmethod=manual\naddress1=192.0.2.7/24\naddress2=192.0.2.8/24\ngateway=192.0.2.1\n\
             dns=192.0.2.53;192.0.2.54;\n\n[ipv6]\nmethod=auto\naddr-gen-mode=stable-privacy\n",
            uuid("mbl-on-enp0s1")
        );
        assert_eq!(text(&rendered.connections["mbl-on-enp0s1"]), wanted);
    }

    #[test]
    fn without_a_document_the_device_goes_by_its_identity_and_the_rest_is_the_images() {
        let rendered = Rendered::of(None, &nothing(), Some(&HostName::new("gate-1").unwrap())).unwrap();
        assert_eq!((text(rendered.setting(HOSTNAME)), text(rendered.setting(JOURNAL))), ("gate-1", "[Journal]\n"));
        assert!(!rendered.settings.contains_key(TIME_SERVERS) && rendered.setting(ENVIRONMENT).is_empty());
        assert!(text(&rendered.connections[ANY_WIRED]).contains("[ipv4]\nmethod=auto\n"));
        assert_eq!(rendered.connections.len(), 1);
    }

    #[test]
    fn what_the_service_gives_stands_in_the_place_of_what_the_release_says_and_of_nothing_else() {
        let rendered = |given: &str| {
            let given = SystemSettings::parse(given.as_bytes()).unwrap();
            Rendered::of(Some(DOCUMENT_TEXT.as_bytes()), &given, None).unwrap()
        };
        let plain = rendered("{}");
        assert!(!plain.settings.contains_key(GIVEN));
        let named = rendered(r#"{"hostname":"oven"}"#);
        assert_eq!(text(named.setting(HOSTNAME)), "oven");
        assert_eq!(text(named.setting(GIVEN)), r#"{"hostname":"oven"}"#);
        assert_eq!(
            (named.setting(TIME_SERVERS), &named.connections),
            (plain.setting(TIME_SERVERS), &plain.connections)
        );
        let timed = rendered(r#"{"time_servers":["192.0.2.123"]}"#);
        assert_eq!(text(timed.setting(TIME_SERVERS)), "server 192.0.2.123 iburst\n");
        assert_eq!(text(timed.setting(HOSTNAME)), "kiln-7");

        let wired = rendered(
            r#"{"network":{"enp0s1":{"addresses":["2001:db8::7/64","192.0.2.9/24"],"gateway":"192.0.2.1","dns":["2001:db8::53"]},"eth9":{}}}"#,
        );
        let names: Vec<&String> = wired.connections.keys().collect();
        assert_eq!(names, ["mbl-on-enp0s1", "mbl-on-eth9", "mbl-wired"]);
        let one = text(&wired.connections["mbl-on-enp0s1"]);
        let internet = "[ipv4]\nmethod=manual\naddress1=192.0.2.9/24\ngateway=192.0.2.1\n\n\
                        [ipv6]\nmethod=manual\naddress1=2001:db8::7/64\ndns=2001:db8::53;\naddr-gen-mode=stable-privacy\n";
        assert!(one.ends_with(internet), "{one}");
        assert!(text(&wired.connections["mbl-on-eth9"]).contains("[ipv4]\nmethod=auto\n"));
        assert_ne!(wired.digest_with(&[]), wired.digest_with(&["oven".into()]));
        assert_ne!(wired.digest_with(&[]), plain.digest_with(&[]));
    }

    #[test]
    fn a_connection_keeps_its_identity_and_no_other_has_it() {
        assert_eq!(uuid("mbl-wired"), uuid("mbl-wired"));
        assert_ne!(uuid("mbl-on-eth0"), uuid("mbl-on-eth1"));
        let uuid = uuid("mbl-wired");
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_rendered_or_refused(bytes: Vec<u8>) {
            drop(Rendered::of(Some(&bytes), &nothing(), None));
        }

        /// Whatever a document that is accepted holds, it stays on its line: no value becomes a key or a section of a program's settings.
        #[test]
        fn no_value_leaves_its_line(server in "\\PC{1,20}", host in "\\PC{1,12}", interface in "\\PC{1,12}", address in "[0-9.:/a]{1,12}") {
            let document = serde_json::json!({ "format": 1, "hostname": host, "time_servers": [server],
                "network": [{ "kind": "ethernet", "interface": interface, "ipv4": { "addresses": [address] } }] });
            if let Ok(rendered) = Rendered::of(Some(document.to_string().as_bytes()), &nothing(), None) {
                prop_assert_eq!(text(rendered.setting(TIME_SERVERS)).lines().count(), 1);
                let one = &rendered.connections[&name_of(&interface)];
                prop_assert_eq!(text(one).lines().filter(|line| line.starts_with('[')).count(), 3);
                prop_assert_eq!(text(one).lines().count(), 14);
            }
        }
    }
}
