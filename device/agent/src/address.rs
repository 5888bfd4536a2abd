//! Addresses of the service: a scheme that is known, a host and a port. Never resolves a name.

use std::{fmt, str::FromStr};

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// How one speaks to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// CoAP over TLS (RFC 8323), default port 5684.
    CoapsTcp,
    /// HTTP over TLS, default port 443.
    Https,
}

impl Scheme {
    const fn prefix(self) -> &'static str {
        match self {
            Self::CoapsTcp => "coaps+tcp://",
            Self::Https => "https://",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::CoapsTcp => 5684,
            Self::Https => 443,
        }
    }
}

/// The address of one server, as in `coaps+tcp://service.example:5684`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    scheme: Scheme,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// A text that is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not the address of a server: write coaps+tcp://HOST:PORT or https://HOST:PORT without a path")]
pub struct AddressError {
    given: String,
}

impl ServerAddress {
    /// The longest address in bytes.
    pub const MAX_BYTES: usize = 255;

    /// How one speaks to it.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host name or IP address, the latter without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The name that the server's certificate must carry.
    pub const fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// `HOST:PORT`, with brackets where the host needs them.
    pub fn authority(&self) -> String {
        match &self.name {
            ServerName::IpAddress(rustls_pki_types::IpAddr::V6(_)) => format!("[{}]:{}", self.host, self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError { given: text.chars().take(80).flat_map(char::escape_default).collect() };
        if text.len() > Self::MAX_BYTES {
            return Err(refused());
        }
        let (scheme, rest) = [Scheme::CoapsTcp, Scheme::Https]
            .into_iter()
            .find_map(|scheme| Some((scheme, text.strip_prefix(scheme.prefix())?)))
            .ok_or_else(refused)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split(rest).ok_or_else(refused)?;
        let port = match port {
            None => scheme.default_port(),
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| refused())?
            }
            Some(_) => return Err(refused()),
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| refused())?;
        if port == 0 {
            return Err(refused());
        }
        Ok(Self { scheme, host: host.to_owned(), port, name })
    }
}

/// Host and port of `[v6]:port` or `host:port`.
fn split(rest: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = rest.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    match rest.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((rest, None)),
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scheme.prefix(), self.authority())
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_refused_or_reads_back_as_itself(text in "(coaps\\+tcp|https)?(://)?[a-z0-9.:\\[\\]/@% -]{0,40}") {
            if let Ok(address) = text.parse::<ServerAddress>() {
                prop_assert_eq!(address.to_string().parse::<ServerAddress>(), Ok(address.clone()));
                prop_assert!(!address.authority().contains(['/', '@', ' ', '%']), "{}", address);
            }
        }
    }

    #[test]
    fn names_and_both_kinds_of_ip_addresses_read_back_as_themselves() {
        for text in ["coaps+tcp://service.example:5684", "https://127.0.0.1:8444", "https://[::1]:8444"] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), text);
        }
        assert_eq!("https://a.example".parse::<ServerAddress>().unwrap().port(), 443);
    }

    #[test]
    fn an_address_that_could_lead_elsewhere_is_refused() {
        for text in [
            "http://a.example:80",
            "coap://a.example",
            "https://user@a.example",
            "https://a.example/path",
            "https://a.example:0",
            "https://a.example:99999",
            "https://a.example:+80",
            "https://a.example:",
            "https://[::1",
            "https://[a.example]:1",
            "https://::1:443",
            "https://a b",
            "https://a.example\r\nX: y",
            "https://",
            "",
        ] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text:?} was accepted");
        }
        assert!(format!("https://{}.example", "a".repeat(300)).parse::<ServerAddress>().is_err());
    }
}
