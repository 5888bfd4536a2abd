//! Addresses in the settings of what the service talks to: over TLS, or on the same machine.

use url::{Host, Url};

/// Why a text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointFault {
    /// It is no address, or one that holds a secret.
    None,
    /// Everybody on the way could read along.
    Open,
}

/// The address in a text.
pub(crate) fn parse(text: &str) -> Result<Url, EndpointFault> {
    let url = Url::parse(text).map_err(|_| EndpointFault::None)?;
    let is_here = match url.host().ok_or(EndpointFault::None)? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(EndpointFault::None);
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        "http" => Err(EndpointFault::Open),
        _ => Err(EndpointFault::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_machine_is_encrypted_and_no_secret_stands_in_an_address() {
        for text in ["https://a.example/x?y=z", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        assert_eq!(parse("http://a.example"), Err(EndpointFault::Open));
        for text in
            ["a.example:1", "ftp://a.example", "https://user:secret@a.example", "https://a.example/#x", "", "http://"]
        {
            assert_eq!(parse(text), Err(EndpointFault::None), "{text}");
        }
    }
}
