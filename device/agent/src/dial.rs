//! Makes a TLS connection to one server within a time limit, and says what a failure means. Never retries.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::address::ServerAddress;

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
    // A peer that vanishes without a word must not hold a connection open for ever.
    rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(|e| unreached(e.into()))?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60)).map_err(|e| unreached(e.into()))?;

    let wanted = tls.alpn_protocols.first().cloned();
    let stream = limited(TlsConnector::from(tls).connect(address.name().clone(), stream)).await.map_err(insecure)?;
    let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    if agreed != wanted {
        return Err(insecure(io::Error::new(io::ErrorKind::Unsupported, "the server speaks another protocol")));
    }
    Ok(stream)
}

async fn connect(source: Option<IpAddr>, address: &ServerAddress) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect((address.host(), address.port())).await };
    let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "the server has no address of this IP version");
    let found = lookup_host((address.host(), address.port())).await?;
    for to in found.filter(|to| to.is_ipv4() == source.is_ipv4()) {
        let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((source, 0).into())?;
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(LIMIT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
