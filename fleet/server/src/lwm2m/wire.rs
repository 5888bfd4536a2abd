//! One connection of a device: bytes to messages, messages to the session and back, each wait with a limit. Never decides.

use std::time::Duration;

use protocol_lwm2m::{
    coap::{Limits, Message, signal, tcp},
    server::{Fact, Session, Settings, Step},
    time::Millis,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until, timeout},
};

/// Largest message that a device may send: a registration or report with 32 applications has about 6 kB.
const MAX_MESSAGE: u32 = 16 * 1024;
/// Largest body in blocks.
const MAX_BODY: usize = 64 * 1024;
/// Longest time for the rest of a message whose beginning has arrived.
const MESSAGE: Duration = Duration::from_secs(30);
/// Longest time until a device has taken what was written to it.
const WRITE: Duration = Duration::from_secs(30);
/// Longest wait for the end of the stream.
const GOODBYE: Duration = Duration::from_secs(2);
/// Read at a time: part of every connection's memory.
const CHUNK: usize = 1024;

/// A connection and its session.
pub(super) struct Wire<S> {
    stream: S,
    decoder: tcp::Decoder,
    session: Session,
    started: Instant,
    wake: Option<Instant>,
    /// When the message whose beginning has arrived must be whole.
    message_due: Option<Instant>,
    is_open: bool,
}

/// What the session must hear next.
#[derive(Debug)]
pub(super) enum Arrival {
    Message(Message),
    TimePassed,
    /// The device went away or sent what is no CoAP.
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, seed: u64) -> Self {
        let mut settings = Settings::new(seed);
        settings.limits = Limits {
            max_message: MAX_MESSAGE,
            max_body: MAX_BODY,
            max_exchanges: 4,
            max_inbound: 4,
            ..Limits::default()
        };
        Self {
            stream,
            decoder: tcp::Decoder::new(usize::try_from(MAX_MESSAGE).unwrap_or(usize::MAX)),
            session: Session::new(settings),
            started: Instant::now(),
            wake: None,
            message_due: None,
            is_open: true,
        }
    }

    /// Whether there is anything left to wait for.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Waits for what comes next. Safe to drop at any time: nothing that was read is lost.
    pub(super) async fn arrival(&mut self) -> Arrival {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => {
                    self.message_due = None;
                    return Arrival::Message(message);
                }
                Ok(None) => {}
                Err(error) => {
                    self.refuse(&error.to_string()).await;
                    return Arrival::Ended;
                }
            }
            if !self.decoder.is_inside_message() {
                self.message_due = None;
            } else if self.message_due.is_none() {
                self.message_due = Some(Instant::now() + MESSAGE);
            }
            let mut chunk = [0; CHUNK];
            tokio::select! {
                read = self.stream.read(&mut chunk) => match read {
                    Ok(0) | Err(_) => return Arrival::Ended,
                    Ok(length) => self.decoder.push(chunk.get(..length).unwrap_or_default()),
                },
                () = at(self.wake) => {
                    self.wake = None;
                    return Arrival::TimePassed;
                }
                () = at(self.message_due) => {
                    self.refuse("the message did not arrive in time").await;
                    return Arrival::Ended;
                }
            }
        }
    }

    /// Passes a fact to the session, writes what it wants sent, and answers what only the caller can do.
    pub(super) async fn tell(&mut self, fact: Fact) -> Vec<Step> {
        let now = Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let (mut out, mut rest, mut close) = (Vec::new(), Vec::new(), false);
        for step in self.session.on(now, fact) {
            match step {
                Step::Send(message) => tcp::encode(&message, &mut out),
                Step::Close => close = true,
                Step::WakeAt(Millis(at)) => self.wake = Some(self.started + Duration::from_millis(at)),
                other => rest.push(other),
            }
        }
        if !out.is_empty() && !self.write(&out).await {
            close = true;
        }
        if close {
            self.is_open = false;
        }
        rest
    }

    /// Passes what arrived.
    pub(super) async fn tell_arrival(&mut self, arrival: Arrival) -> Vec<Step> {
        match arrival {
            Arrival::Message(message) => self.tell(Fact::Received(message)).await,
            Arrival::TimePassed => self.tell(Fact::TimePassed).await,
            Arrival::Ended => {
                self.is_open = false;
                self.tell(Fact::Lost).await
            }
        }
    }

    /// Ends the session kindly; the connection is over with it.
    pub(super) async fn hang_up(&mut self) -> Vec<Step> {
        let steps = self.tell(Fact::Shutdown).await;
        self.is_open = false;
        steps
    }

    /// Ends the stream, and the connection with it.
    pub(super) async fn close(mut self) {
        // Whether the device hears the goodbye changes nothing.
        drop(timeout(GOODBYE, self.stream.shutdown()).await);
    }

    async fn refuse(&mut self, why: &str) {
        let mut out = Vec::new();
        tcp::encode(&signal::abort(why), &mut out);
        self.write(&out).await;
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        matches!(timeout(WRITE, written).await, Ok(Ok(())))
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
