//! One CoAP connection over a secure stream: whole messages in and out. Never interprets them.

use std::{fmt, io, net::IpAddr, time::Duration};

use protocol_lwm2m::coap::{Message, WireError, tcp};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    dial::{Verdict, verdict},
    network::{Connected, Stream},
};

/// What is read at once.
const PIECE: usize = 2048;
/// The longest wait for the server to take what is written.
const LIMIT: Duration = Duration::from_secs(30);

/// An open connection.
pub(crate) struct CoapConnection {
    stream: Box<dyn Stream>,
    from: Option<IpAddr>,
    decoder: tcp::Decoder,
    outgoing: Vec<u8>,
}

impl fmt::Debug for CoapConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoapConnection").field("from", &self.from).finish_non_exhaustive()
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the server sent what is no CoAP message")]
    Wire(#[from] WireError),
    #[error("the server closed the connection")]
    Closed,
}

impl ConnectionError {
    /// What the end says about this device.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Io(e) => verdict(e),
            Self::Wire(_) | Self::Closed => Verdict::TryAgain,
        }
    }
}

impl CoapConnection {
    /// CoAP on a connection whose handshake is done; messages of more than `limit` bytes are refused.
    pub(crate) fn new(Connected { stream, from }: Connected, limit: usize) -> Self {
        Self { stream, from, decoder: tcp::Decoder::new(limit), outgoing: Vec::new() }
    }

    /// The address from which the device reaches the server.
    pub(crate) const fn local_address(&self) -> Option<IpAddr> {
        self.from
    }

    /// Puts a message behind those that are still to be written.
    pub(crate) fn queue(&mut self, message: &Message) {
        tcp::encode(message, &mut self.outgoing);
    }

    /// Writes what is queued.
    pub(crate) async fn flush(&mut self) -> Result<(), ConnectionError> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        timeout(LIMIT, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        self.outgoing.clear();
        self.outgoing.shrink_to(PIECE);
        Ok(())
    }

    /// The next message; may be dropped and called again without losing any.
    pub(crate) async fn receive(&mut self) -> Result<Message, ConnectionError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let mut piece = [0; PIECE];
            match self.stream.read(&mut piece).await? {
                0 => return Err(ConnectionError::Closed),
                n => self.decoder.push(piece.get(..n).unwrap_or_default()),
            }
        }
    }

    /// Writes what is queued and says goodbye, as far as the server still listens.
    pub(crate) async fn close(mut self) {
        if let Err(e) = self.flush().await {
            tracing::debug!(error = %e, "connection could not be closed in order");
            return;
        }
        drop(timeout(Duration::from_secs(1), self.stream.shutdown()).await);
    }
}
