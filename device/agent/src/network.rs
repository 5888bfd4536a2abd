//! The way to servers: where the agent's connections come from, and the only place that opens one towards the service. Whoever
//! runs many devices in one process gives them a network of their own.

use std::{fmt, net::IpAddr, pin::Pin, sync::Arc};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    address::ServerAddress,
    dial::{DialError, dial_from},
};

/// Bytes to and from a server whose handshake is done.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that the network opened.
pub struct Connected {
    /// Its bytes.
    pub stream: Box<dyn Stream>,
    /// The address from which it leaves the device.
    pub from: Option<IpAddr>,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("from", &self.from).finish_non_exhaustive()
    }
}

/// A connection that is being opened.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Connected, DialError>> + Send>>;

/// Opens connections; each is bounded in time and never tried twice.
pub trait Network: Send + Sync + fmt::Debug {
    /// Connects to `to`, leaving from the address `from` if there is one, with the handshake that `tls` describes.
    fn dial(&self, from: Option<IpAddr>, to: &ServerAddress, tls: Arc<ClientConfig>) -> Dialing;
}

/// TCP and TLS of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsNetwork;

impl Network for TlsNetwork {
    fn dial(&self, from: Option<IpAddr>, to: &ServerAddress, tls: Arc<ClientConfig>) -> Dialing {
        let to = to.clone();
        Box::pin(async move {
            let stream = dial_from(from, &to, tls).await?;
            let from = stream.get_ref().0.local_addr().ok().map(|address| address.ip());
            Ok(Connected { stream: Box::new(stream), from })
        })
    }
}
