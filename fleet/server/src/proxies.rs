//! From where a request came, where proxies stand in front of the API: what they say is believed as far as the settings name them, and
//! no further. A function of the other end of the connection, the headers and the settings.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};

use crate::config::{ForwardedHeader, Proxies};

/// Proxies that may stand one behind the other; what further ones said is not looked at.
const MOST_HOPS: usize = 8;
/// The header that most proxies write; it has no standard.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client: that of the peer, or what the nearest trusted proxy says, as long as there is a further one to trust.
/// A proxy appends what it sees, so everything is read from the end: what a client wrote itself stands before the first untrusted address.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &Proxies) -> IpAddr {
    let mut client = peer.to_canonical();
    let name = match proxies.header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => header::FORWARDED,
    };
    let lines = headers.get_all(name).iter().rev().map(|line| line.to_str().unwrap_or_default());
    for hop in lines.flat_map(|line| line.rsplit(',')).take(MOST_HOPS) {
        if !proxies.trusts(client) {
            break;
        }
        let text = match proxies.header {
            ForwardedHeader::XForwardedFor => hop.trim(),
            ForwardedHeader::Forwarded => forwarded_for(hop),
        };
        // A proxy that hides its client, or says something else, is as far as one can see.
        let Some(address) = node(text) else { break };
        client = address.to_canonical();
    }
    client
}

/// The node after `for=` in one element of a `Forwarded` header (RFC 7239, section 4), or nothing.
fn forwarded_for(element: &str) -> &str {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut nodes = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for")).map(|(_, node)| node.trim());
    nodes.next().map(|node| node.trim_matches('"')).unwrap_or_default()
}

/// An address with or without a port, an IPv6 one with or without brackets.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: ForwardedHeader, trusted: &[&str]) -> Proxies {
        Proxies { trusted: trusted.iter().map(|text| text.parse().unwrap()).collect(), header }
    }

    fn seen(proxies: &Proxies, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(*name, line.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, proxies).to_string()
    }

    const X: &str = "x-forwarded-for";

    #[test]
    fn nobody_but_a_trusted_proxy_says_where_a_request_came_from() {
        let behind = proxies(ForwardedHeader::XForwardedFor, &["10.0.0.0/8"]);
        assert_eq!(seen(&behind, "192.0.2.9", &[(X, "198.51.100.1")]), "192.0.2.9", "the peer is no proxy");
        assert_eq!(seen(&behind, "10.0.0.1", &[(X, "198.51.100.1")]), "198.51.100.1");
        assert_eq!(seen(&behind, "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen(&behind, "::ffff:10.0.0.1", &[(X, "198.51.100.1")]), "198.51.100.1");
        let none = proxies(ForwardedHeader::XForwardedFor, &[]);
        assert_eq!(seen(&none, "10.0.0.1", &[(X, "198.51.100.1")]), "10.0.0.1");
    }

    #[test]
    fn what_a_client_wrote_itself_stands_before_what_the_proxies_saw() {
        let behind = proxies(ForwardedHeader::XForwardedFor, &["10.0.0.0/8", "fd00::/8"]);
        for line in
            ["127.0.0.1, 198.51.100.1", "10.0.0.7, 198.51.100.1, 10.0.0.2", "x, 198.51.100.1:4711, [fd00::1]:80"]
        {
            assert_eq!(seen(&behind, "10.0.0.1", &[(X, line)]), "198.51.100.1", "{line}");
        }
        let two = [(X, "127.0.0.1"), (X, "198.51.100.1")];
        assert_eq!(seen(&behind, "10.0.0.1", &two), "198.51.100.1", "several lines are one list");
        assert_eq!(seen(&behind, "10.0.0.1", &[(X, "198.51.100.1, unknown, 10.0.0.2")]), "10.0.0.2");
    }

    #[test]
    fn the_other_header_is_not_looked_at() {
        let standard = proxies(ForwardedHeader::Forwarded, &["10.0.0.0/8"]);
        let lines = [(X, "198.51.100.7"), ("forwarded", "for=192.0.2.60;proto=https;by=203.0.113.43")];
        assert_eq!(seen(&standard, "10.0.0.1", &lines), "192.0.2.60");
        let plain = proxies(ForwardedHeader::XForwardedFor, &["10.0.0.0/8"]);
        assert_eq!(seen(&plain, "10.0.0.1", &lines), "198.51.100.7");
        // RFC 7239, sections 4 and 6; an unfinished quotation of the client's hides nothing of what follows.
        for (line, expected) in [
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"_gazonk\"", "10.0.0.1"),
            ("for=\"x, for=198.51.100.1", "198.51.100.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(seen(&standard, "10.0.0.1", &[("forwarded", line)]), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_header_says_an_untrusted_peer_is_the_client(line in "[ -~]{0,200}", name in 0..2_usize) {
            let behind = proxies([ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded][name], &["10.0.0.0/8"]);
            let name = [X, "forwarded"][name];
            prop_assert_eq!(seen(&behind, "192.0.2.9", &[(name, &line)]), "192.0.2.9");
            seen(&behind, "10.0.0.1", &[(name, &line)]);
        }
    }
}
