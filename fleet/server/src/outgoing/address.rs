//! Which addresses outside may be asked. A service that anybody could let ask any address would be a door into its own network, so
//! private and loopback addresses are refused unless the settings list them. The decision is a function of address and settings.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::Deserialize;
use url::{Host, Url};

/// An address or a network, as in `10.0.0.0/8` or `127.0.0.1`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

/// A text that is neither an address nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor a network, as in `10.0.0.0/8`")]
pub struct NotANetwork(String);

impl Network {
    /// Whether the address is in the network.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = NotANetwork;
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        net.map(Self).ok_or_else(|| NotANetwork(text.to_owned()))
    }
}

impl TryFrom<String> for Network {
    type Error = NotANetwork;
    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

/// Longest address, in bytes.
const MAX_URL_BYTES: usize = 2000;

/// What is asked: an address whose form is fine. Whether its host may be reached is asked at each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) url: Url,
    /// Whether it is reached over TLS.
    pub(crate) encrypted: bool,
}

/// Why an address is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("this is no address: write one as in `https://hooks.example/in`")]
    Malformed,
    #[error("an address has at most {MAX_URL_BYTES} bytes")]
    TooLong,
    #[error("an address begins with `https://`; `http://` is for addresses that the settings list")]
    Scheme,
    #[error("an address has neither a user name nor a password")]
    Credentials,
    #[error("what stands after `#` never leaves for the receiver")]
    Fragment,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the name `{0}` has no address")]
    Unknown(String),
}

/// A host that may not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{host}` has no address that the service may ask; the setting `{setting}` lists private ones that it may")]
pub(crate) struct Refused {
    pub(crate) host: String,
    /// The setting that would allow it.
    pub(crate) setting: &'static str,
}

impl Target {
    /// Reads an address.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > MAX_URL_BYTES {
            return Err(TargetError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| TargetError::Malformed)?;
        let encrypted = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(TargetError::Scheme),
        };
        if !url.has_host() {
            return Err(TargetError::Malformed);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(TargetError::Fragment);
        }
        Ok(Self { url, encrypted })
    }

    /// The host, if it is an address and not a name.
    fn literal(&self) -> Option<IpAddr> {
        match self.url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        }
    }
}

/// Which addresses may be reached.
#[derive(Clone, Debug)]
pub(crate) struct AddressPolicy {
    allow: Arc<[Network]>,
    setting: &'static str,
}

impl AddressPolicy {
    /// Allows what is public, and what the setting of this name lists.
    pub(crate) fn new(setting: &'static str, allow: &[Network]) -> Self {
        Self { allow: allow.into(), setting }
    }

    fn refused(&self, host: impl Into<String>) -> Refused {
        Refused { host: host.into(), setting: self.setting }
    }

    /// Whether an address may be reached: one that is listed always, a public one over TLS.
    pub(crate) fn allows(&self, address: IpAddr, encrypted: bool) -> bool {
        let address = address.to_canonical();
        self.allow.iter().any(|network| network.contains(address)) || (encrypted && is_public(address))
    }

    /// The addresses of a host that may be reached; a name is resolved here and nowhere else, and the connection goes to one of these.
    pub(crate) async fn resolve(&self, host: &str, encrypted: bool) -> Result<Vec<IpAddr>, TargetError> {
        let unknown = || TargetError::Unknown(host.to_owned());
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|_| unknown())?;
        let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        if found.is_empty() {
            return Err(unknown());
        }
        let allowed: Vec<IpAddr> = found.into_iter().filter(|address| self.allows(*address, encrypted)).collect();
        if allowed.is_empty() { Err(self.refused(host).into()) } else { Ok(allowed) }
    }

    /// Refuses a target whose host is an address that may not be reached. A name passes: it is looked at when it is resolved.
    pub(crate) fn check_literal(&self, target: &Target) -> Result<(), Refused> {
        match target.literal() {
            Some(address) if !self.allows(address, target.encrypted) => Err(self.refused(address.to_string())),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses a target that could not be reached now because of this policy. A name that cannot be resolved now passes.
    pub(crate) async fn check(&self, target: &Target) -> Result<(), TargetError> {
        self.check_literal(target)?;
        let Some(Host::Domain(name)) = target.url.host() else { return Ok(()) };
        match self.resolve(name, target.encrypted).await {
            Ok(_) | Err(TargetError::Unknown(_)) => Ok(()),
            Err(refused) => Err(refused),
        }
    }
}

/// Whether an address belongs to the public internet, by the registries of special addresses (RFC 6890 and its successors).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocols = a == 192 && b == 0 && c == 0;
    let relays = a == 192 && b == 88 && c == 99;
    let benchmarks = a == 198 && (b == 18 || b == 19);
    !(a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || protocols
        || relays
        || benchmarks)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        // NAT64 and 6to4 lead to the IPv4 address inside.
        (0x64, 0xff9b) => c == 0 && d == 0 && e == 0 && f == 0 && embedded(g, h),
        (0x2002, _) => embedded(b, c),
        // Protocol assignments, Teredo among them, and documentation.
        (0x2001, 0..0x200 | 0xdb8) | (0x3fff, 0..0x1000) => false,
        _ => (0x2000..0x4000).contains(&a),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str]) -> AddressPolicy {
        let allow: Vec<Network> = allow.iter().map(|text| text.parse().unwrap()).collect();
        AddressPolicy::new("webhooks.allow", &allow)
    }

    const INSIDE: &[&str] = &[
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "fc00::1",
        "fd12:3456::1",
        "fec0::1",
        "ff02::1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
    ];

    #[test]
    fn no_address_inside_is_reached_unless_it_is_listed_and_listed_ones_need_no_tls() {
        let (closed, open) = (policy(&[]), policy(&["0.0.0.0/0", "::/0"]));
        for text in INSIDE {
            let address: IpAddr = text.parse().unwrap();
            assert!(!closed.allows(address, true) && !closed.allows(address, false), "{text}");
            assert!(open.allows(address, false), "{text}");
        }
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::"] {
            let address: IpAddr = text.parse().unwrap();
            assert!(closed.allows(address, true) && !closed.allows(address, false), "{text}");
        }
        let one = policy(&["10.1.0.0/16", "127.0.0.1"]);
        for (text, allowed) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("10.2.0.1", false), ("127.0.0.2", false)]
        {
            assert_eq!(one.allows(text.parse().unwrap(), true), allowed, "{text}");
        }
    }

    #[test]
    fn the_form_of_an_address_is_checked_before_anything_is_asked() {
        for (text, wrong) in [
            ("nonsense", TargetError::Malformed),
            ("https://", TargetError::Malformed),
            ("ftp://a.example/", TargetError::Scheme),
            ("file:///etc/passwd", TargetError::Scheme),
            ("https://user@a.example/", TargetError::Credentials),
            ("https://:secret@a.example/", TargetError::Credentials),
            ("https://a.example/#x", TargetError::Fragment),
            (&format!("https://a.example/{}", "x".repeat(2000)), TargetError::TooLong),
        ] {
            assert_eq!(Target::parse(text), Err(wrong), "{text}");
        }
        assert!(Target::parse("https://a.example:8443/in?desk=1").unwrap().encrypted);
    }

    #[tokio::test]
    async fn every_way_to_write_a_loopback_address_is_refused() {
        for text in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
            "http://127.0.0.1/",
        ] {
            let target = Target::parse(text).unwrap();
            let refused = policy(&[]).check(&target).await;
            assert!(matches!(refused, Err(TargetError::Refused(_))), "{text}: {refused:?}");
            assert_eq!(policy(&["127.0.0.0/8", "::1"]).check(&target).await, Ok(()), "{text}");
        }
    }
}
