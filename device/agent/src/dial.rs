//! Makes a TLS connection to one server within a time limit, and says what a failure means. Never retries.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustix::net::sockopt;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::address::ServerAddress;

/// Addresses of a server that are tried in one dial.
const MOST_ADDRESSES: usize = 4;
/// The longest wait for a TCP connection and, after it, for the TLS handshake.
const LIMIT: Duration = Duration::from_secs(15);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answered at the address.
    #[error("cannot reach {address}")]
    Unreached {
        /// The address that was tried.
        address: ServerAddress,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody answered, but no secure connection came about.
    #[error("cannot make a secure connection to {address}")]
    Insecure {
        /// The address that was tried.
        address: ServerAddress,
        /// What TLS said.
        source: io::Error,
    },
}

impl DialError {
    /// Whether anybody answered at all.
    pub const fn answered(&self) -> bool {
        matches!(self, Self::Insecure { .. })
    }

    /// What is to be done about it besides trying again.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unreached { .. } => Verdict::TryAgain,
            Self::Insecure { source, .. } => verdict(source),
        }
    }
}

/// What a failed connection says about this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing; trying again may help.
    TryAgain,
    /// The server does not take this device's certificate.
    CertificateRefused,
    /// The server's certificate does not chain to the service authority, or is for another name.
    ServerUntrusted,
    /// The server's certificate is out of its validity by this device's clock.
    TimeDoubtful,
}

/// What an error of a TLS stream says; refusals of a client certificate come after the handshake in TLS 1.3.
pub fn verdict(error: &io::Error) -> Verdict {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Verdict::TryAgain;
    };
    match error {
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            // What a server says to a certificate of an authority that has the name of a known one, but another key.
            | AlertDescription::DecryptError,
        ) => Verdict::CertificateRefused,
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Verdict::TimeDoubtful,
        rustls::Error::InvalidCertificate(_) => Verdict::ServerUntrusted,
        _ => Verdict::TryAgain,
    }
}

/// Connects to `address`, leaving from the address `source` if there is one, and does the handshake that `tls` describes, ALPN included.
pub async fn dial_from(
    source: Option<IpAddr>,
    address: &ServerAddress,
    tls: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let unreached = |source| DialError::Unreached { address: address.clone(), source };
    let insecure = |source| DialError::Insecure { address: address.clone(), source };

    let stream = limited(connect(source, address)).await.map_err(unreached)?;
    stream.set_nodelay(true).map_err(unreached)?;
    notice_silence(&stream).map_err(unreached)?;

    let wanted = tls.alpn_protocols.first().cloned();
    let stream = limited(TlsConnector::from(tls).connect(address.name().clone(), stream)).await.map_err(insecure)?;
    let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    if agreed != wanted {
        return Err(insecure(io::Error::new(io::ErrorKind::Unsupported, "the server speaks another protocol")));
    }
    Ok(stream)
}

/// Lets a connection end within some two minutes once its peer has vanished without a word, whether or not anything was sent.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    sockopt::set_tcp_user_timeout(stream, 120_000)?;
    Ok(())
}

async fn connect(source: Option<IpAddr>, address: &ServerAddress) -> io::Result<TcpStream> {
    let found = in_turn(lookup_host((address.host(), address.port())).await?, source);
    // One that swallows everything must not hide the others.
    let share = LIMIT / u32::try_from(found.len()).unwrap_or(u32::MAX).max(1);
    let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "the server has no address of this IP version");
    for to in found {
        match timeout(share, connect_to(source, to)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

async fn connect_to(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    socket.connect(to).await
}

/// The addresses of a server that are tried: those that can be reached from `source`, IPv6 and IPv4 by turns.
fn in_turn(found: impl Iterator<Item = SocketAddr>, source: Option<IpAddr>) -> Vec<SocketAddr> {
    let found: Vec<_> = found.filter(|to| source.is_none_or(|source| to.is_ipv4() == source.is_ipv4())).collect();
    let Some(first) = found.first() else { return Vec::new() };
    let (like_first, others): (Vec<_>, Vec<_>) = found.iter().partition(|to| to.is_ipv4() == first.is_ipv4());
    let longest = like_first.len().max(others.len());
    let turns = (0..longest).flat_map(|at| [like_first.get(at), others.get(at)]);
    turns.flatten().copied().take(MOST_ADDRESSES).collect()
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(LIMIT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_of_both_kinds_have_their_turn() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "192.0.2.1:1", "192.0.2.2:1"]);
        let tried = in_turn(found.iter().copied(), None);
        assert_eq!(tried, addresses(&["[::1]:1", "192.0.2.1:1", "[::2]:1", "192.0.2.2:1"]));
        let tried = in_turn(found.iter().copied(), Some("192.0.2.9".parse().unwrap()));
        assert_eq!(tried, addresses(&["192.0.2.1:1", "192.0.2.2:1"]));
        assert!(in_turn([].into_iter(), None).is_empty());
    }

    #[tokio::test]
    async fn a_peer_that_vanished_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        notice_silence(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let idle = sockopt::tcp_keepidle(&stream).unwrap();
        let silent = sockopt::tcp_keepintvl(&stream).unwrap() * sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!(idle + silent, Duration::from_secs(120));
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 120_000);
    }
}
