//! One connection to a root process on this device: credentials, greetings, and messages in frames. Never repeats anything.

use std::{io, path::Path, time::Duration};

use protocol_types::socket::{FrameError, FrameReader, Greeting, PROTOCOL, Role, encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::UnixStream,
    time::timeout,
};

use crate::network::Stream;

/// The longest wait for the peer's greeting, and for it to take one message.
const LIMIT: Duration = Duration::from_secs(10);
/// What is read at once; frames come in as many pieces as they need.
const PIECE: usize = 4096;

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The process does not listen, or the connection broke.
    #[error("the local connection to {0:?} failed")]
    Io(Role, #[source] io::Error),
    /// Another user than the one who may offer this service listens.
    #[error("the socket of {role:?} belongs to user {uid}, who may not offer it")]
    Credentials {
        /// Who was expected.
        role: Role,
        /// Who listens.
        uid: u32,
    },
    /// The peer is another program or another version.
    #[error("expected {expected:?} with protocol {PROTOCOL}, but {found:?} with protocol {protocol} answered")]
    Greeting {
        /// Who was expected.
        expected: Role,
        /// Who answered.
        found: Role,
        /// Its protocol.
        protocol: u16,
    },
    /// The peer sent what is no message of this protocol.
    #[error("{0:?} sent a frame that cannot be read")]
    Frame(Role, #[source] FrameError),
    /// The peer closed the connection.
    #[error("{0:?} closed the connection")]
    Closed(Role),
}

/// The half that hears.
pub(crate) struct Hearing {
    role: Role,
    half: ReadHalf<Box<dyn Stream>>,
    frames: FrameReader,
}

/// The half that speaks.
pub(crate) struct Speaking {
    role: Role,
    half: WriteHalf<Box<dyn Stream>>,
}

/// Connects to the process of `role` at `path` and checks who listens there.
pub(crate) async fn connect(path: &Path, role: Role) -> Result<Box<dyn Stream>, LinkError> {
    let stream = UnixStream::connect(path).await.map_err(|e| LinkError::Io(role, e))?;
    let uid = stream.peer_cred().map_err(|e| LinkError::Io(role, e))?.uid();
    // The processes run as root; on a board without privileges all three run as the same user.
    if uid != 0 && uid != rustix::process::getuid().as_raw() {
        return Err(LinkError::Credentials { role, uid });
    }
    Ok(Box::new(stream))
}

/// Greets the process of `role` at the other end of `stream`.
pub(crate) async fn greet(stream: Box<dyn Stream>, role: Role) -> Result<(Hearing, Speaking), LinkError> {
    let (read, write) = tokio::io::split(stream);
    let mut hearing = Hearing { role, half: read, frames: FrameReader::new() };
    let mut speaking = Speaking { role, half: write };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    speaking.say(&Greeting { protocol: PROTOCOL, role: Role::Agent, version }).await?;
    let greeting: Greeting = timeout(LIMIT, hearing.hear()).await.map_err(|_| late(role))??;
    if greeting.role != role || greeting.protocol != PROTOCOL {
        return Err(LinkError::Greeting { expected: role, found: greeting.role, protocol: greeting.protocol });
    }
    // A process that answers one question is there too often for a log.
    if role != Role::System {
        tracing::info!(?role, version = %greeting.version.escape_debug(), "connected to local process");
    }
    Ok((hearing, speaking))
}

impl Hearing {
    /// The next message; may be dropped and called again without losing any.
    pub(crate) async fn hear<M: DeserializeOwned>(&mut self) -> Result<M, LinkError> {
        loop {
            if let Some(message) = self.frames.take().map_err(|e| LinkError::Frame(self.role, e))? {
                return Ok(message);
            }
            let mut piece = [0; PIECE];
            match self.half.read(&mut piece).await.map_err(|e| LinkError::Io(self.role, e))? {
                0 => return Err(LinkError::Closed(self.role)),
                n => self.frames.push(piece.get(..n).unwrap_or_default()),
            }
        }
    }
}

impl Speaking {
    /// Says one message whole; a peer that does not take it in time has failed.
    pub(crate) async fn say<M: Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        let frame = encode(message).map_err(|e| LinkError::Frame(self.role, e))?;
        let written = timeout(LIMIT, self.half.write_all(&frame)).await.map_err(|_| late(self.role))?;
        written.map_err(|e| LinkError::Io(self.role, e))
    }
}

fn late(role: Role) -> LinkError {
    LinkError::Io(role, io::ErrorKind::TimedOut.into())
}
