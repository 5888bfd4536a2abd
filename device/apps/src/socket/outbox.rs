//! Messages on their way to one peer. A peer that does not read loses its connection, never our time.

use std::{
    io::Write,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use protocol_types::socket::encode;
use serde::Serialize;
use tracing::warn;

/// Messages that may wait for a peer.
const QUEUE: usize = 64;
/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The sending side of a connection; clones send to the same peer.
#[derive(Debug, Clone)]
pub struct Outbox {
    connection: u64,
    queue: SyncSender<Vec<u8>>,
    stream: std::sync::Arc<UnixStream>,
}

impl Outbox {
    /// Starts to write to `stream`. The thread ends when the last clone is dropped or a write fails.
    pub(super) fn open(stream: UnixStream, connection: u64) -> std::io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        let (queue, waiting) = sync_channel(QUEUE);
        let writer = stream.try_clone()?;
        thread::Builder::new()
            .name("writer".into())
            .stack_size(128 * 1024)
            .spawn(move || write_all(writer, &waiting))?;
        Ok(Self { connection, queue, stream: stream.into() })
    }

    /// The number of the connection; a later one has a higher number.
    pub const fn connection(&self) -> u64 {
        self.connection
    }

    /// Sends a message, or ends the connection if the peer is not keeping up; the peer then makes a new one and hears the
    /// newest state. Says whether the message is on its way.
    pub fn send(&self, message: &impl Serialize) -> bool {
        let sent = encode(message).is_ok_and(|frame| self.queue.try_send(frame).is_ok());
        if !sent {
            self.close();
        }
        sent
    }

    /// Ends the connection.
    pub fn close(&self) {
        // Fails only if it is closed already.
        let _closed = self.stream.shutdown(Shutdown::Both);
    }
}

fn write_all(mut stream: UnixStream, waiting: &Receiver<Vec<u8>>) {
    for frame in waiting {
        if let Err(error) = stream.write_all(&frame) {
            warn!(%error, "a peer does not read; its connection ends");
            let _closed = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}
