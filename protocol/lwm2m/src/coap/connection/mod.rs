//! Everything that one reliable connection owes the standard: capabilities, tokens, deadlines, block-wise transfer both ways.

use std::time::Duration;

use super::{
    Block, Code, Message, Token,
    blockwise::{Download, Downloads, Key, Upload, Uploads},
    exchanges::Exchanges,
    signal::{Capabilities, Signal},
    tcp,
};
use crate::time::Millis;

mod inbound;
mod outbound;

/// Bounds of one connection. A peer that wants more is refused, never served at the cost of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message that this side takes, announced in its CSM; at least 1152.
    pub max_message: u32,
    /// The largest body that is assembled from blocks or cut into them.
    pub max_body: usize,
    /// Requests to the peer under way at once.
    pub max_exchanges: usize,
    /// Requests of the peer under way at once; more are answered with 5.03.
    pub max_inbound: usize,
    /// Longest wait for the response to a request, and for the next block of a body.
    pub exchange_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 65_536,
            max_body: 1 << 20,
            max_exchanges: 64,
            max_inbound: 16,
            exchange_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a request of ours has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// No response in time.
    #[error("no response came in time")]
    TimedOut,
    /// The connection ended first, or does not stand.
    #[error("the connection ended before the response came")]
    ConnectionLost,
    /// Too many requests are under way.
    #[error("too many requests are under way on the connection")]
    TooMany,
    /// The request or the response is larger than this side's limit or than the peer can take.
    #[error("the request or its response is too large")]
    TooLarge,
    /// The peer broke the rules of block-wise transfer or sent a critical option that is not known.
    #[error("the peer's response breaks the rules of the protocol")]
    Broken,
}

/// The number of a request of the peer, until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InboundId(u64);

/// What a connection wants done, in this order. `T` is whatever the owner needs to know a request again.
#[derive(Clone, Debug, PartialEq)]
pub enum Output<T> {
    /// Write this message.
    Send(Message),
    /// The peer's capabilities are known: requests may go out.
    Ready,
    /// A whole request of the peer; answer it with [`Connection::respond`].
    Request {
        /// Its number.
        id: InboundId,
        /// The request with its whole payload.
        request: Message,
    },
    /// The whole response to a request of ours.
    Response {
        /// The owner's mark.
        tag: T,
        /// The response.
        response: Message,
    },
    /// A notification for a request of ours that observes.
    Notification {
        /// The owner's mark.
        tag: T,
        /// The response with its whole payload.
        response: Message,
    },
    /// A request of ours has no response.
    Failed {
        /// The owner's mark.
        tag: T,
        /// Why.
        error: ExchangeError,
    },
    /// An observation of ours ended with the connection, or lost a notification: observe anew if it matters.
    Ended {
        /// The owner's mark.
        tag: T,
        /// Why.
        error: ExchangeError,
    },
    /// The connection is over: close it.
    Close(CloseReason),
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer released it; seconds to stay away if it said so.
    Released(Option<u32>),
    /// The peer aborted it.
    Aborted,
    /// The peer broke the rules; an Abort was sent.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Our CSM is out, theirs has not come.
    Greeting,
    Open,
    Over,
}

/// A request of ours.
#[derive(Debug)]
struct Exchange<T> {
    tag: T,
    /// Without payload; what follow-up requests for blocks repeat.
    request: Message,
    upload: Option<Upload>,
    download: Download,
    /// The observation of which it fetches the rest of a notification.
    observation: Option<Token>,
}

impl<T> Exchange<T> {
    fn failed(self, error: ExchangeError) -> Output<T> {
        let tag = self.tag;
        if self.observation.is_some() { Output::Ended { tag, error } } else { Output::Failed { tag, error } }
    }
}

/// A request of the peer that waits for its response.
#[derive(Debug)]
struct Inbound {
    id: InboundId,
    token: Token,
    key: Key,
    block1: Option<Block>,
    block2: Option<Block>,
}

/// A Ping of the peer that wants custody, while requests that came before it are not answered.
#[derive(Debug)]
struct Ping {
    token: Token,
    /// The newest of those requests.
    after: InboundId,
}

/// An observation of ours: under its token, notifications come.
#[derive(Debug)]
struct Observation<T> {
    token: Token,
    tag: T,
    request: Message,
}

/// Bodies that may be in the air at once, in each direction.
const MOST_BODIES: usize = 2;

/// One side of a CoAP connection over TCP or TLS.
#[derive(Debug)]
pub struct Connection<T> {
    limits: Limits,
    peer: Capabilities,
    phase: Phase,
    exchanges: Exchanges<Exchange<T>>,
    observations: Vec<Observation<T>>,
    inbound: Vec<Inbound>,
    pings: Vec<Ping>,
    last_inbound: u64,
    uploads: Uploads,
    downloads: Downloads,
}

impl<T: Clone> Connection<T> {
    /// Opens the connection: the first output is our CSM.
    pub fn open(limits: Limits, seed: u64, out: &mut Vec<Output<T>>) -> Self {
        out.push(Output::Send(Capabilities { max_message_size: limits.max_message, block_wise: true }.message()));
        Self {
            limits,
            peer: Capabilities::default(),
            phase: Phase::Greeting,
            exchanges: Exchanges::new(limits.max_exchanges, seed),
            observations: Vec::new(),
            inbound: Vec::new(),
            pings: Vec::new(),
            last_inbound: 0,
            uploads: Uploads::new(MOST_BODIES, limits.max_body),
            downloads: Downloads::new(MOST_BODIES),
        }
    }

    /// Whether requests may go out.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether a request of either side waits for its response.
    pub fn is_busy(&self) -> bool {
        !self.exchanges.is_empty() || !self.inbound.is_empty()
    }

    /// When [`Connection::time_passed`] is next due.
    pub fn next_deadline(&self) -> Option<Millis> {
        let bodies = [self.uploads.next_deadline(), self.downloads.next_deadline()];
        bodies.into_iter().chain([self.exchanges.next_deadline()]).flatten().min()
    }

    /// Drops what has waited too long.
    pub fn time_passed(&mut self, now: Millis, out: &mut Vec<Output<T>>) {
        while let Some((_, exchange)) = self.exchanges.expire(now) {
            out.push(exchange.failed(ExchangeError::TimedOut));
        }
        self.uploads.expire(now);
        self.downloads.expire(now);
    }

    /// The connection ended: everything under way fails.
    pub fn lost(&mut self, out: &mut Vec<Output<T>>) {
        self.phase = Phase::Over;
        let error = ExchangeError::ConnectionLost;
        out.extend(self.exchanges.drain().map(|exchange| exchange.failed(error)));
        out.extend(self.observations.drain(..).map(|observation| Output::Ended { tag: observation.tag, error }));
        self.inbound.clear();
        self.pings.clear();
    }

    /// Asks the peer to end the connection kindly.
    pub fn release(&mut self, out: &mut Vec<Output<T>>) {
        out.push(Output::Send(Signal::Release { alternatives: Vec::new(), hold_off: None }.message()));
        self.lost(out);
    }

    /// Takes one message.
    pub fn receive(&mut self, now: Millis, message: Message, out: &mut Vec<Output<T>>) {
        if self.phase == Phase::Over || message.code == Code::EMPTY {
            return;
        }
        match (self.phase, message.code.class()) {
            (_, 7) => self.signal(&message, out),
            (Phase::Greeting, _) => self.abort("the first message must be a CSM", out),
            (_, 0) => self.request_arrived(now, message, out),
            (_, 2 | 4 | 5) => self.response_arrived(now, message, out),
            // Classes that are reserved mean nothing yet (RFC 7252 section 3).
            _ => {}
        }
    }

    fn signal(&mut self, message: &Message, out: &mut Vec<Output<T>>) {
        if message.code == Code::CSM {
            match self.peer.updated(message) {
                Ok(peer) => self.peer = peer,
                Err(abort) => return self.abort_with(&abort, out),
            }
            if self.phase == Phase::Greeting {
                self.phase = Phase::Open;
                out.push(Output::Ready);
            }
            return;
        }
        match Signal::read(message) {
            Some(Ok(Signal::Abort { .. })) => self.over(CloseReason::Aborted, out),
            _ if self.phase == Phase::Greeting => self.abort("the first message must be a CSM", out),
            Some(Ok(Signal::Ping { custody })) => self.pinged(custody, message.token, out),
            Some(Ok(Signal::Release { hold_off, .. })) => self.over(CloseReason::Released(hold_off), out),
            Some(Err(abort)) => self.abort_with(&abort, out),
            Some(Ok(Signal::Pong { .. })) | None => {}
        }
    }

    fn abort(&mut self, why: &str, out: &mut Vec<Output<T>>) {
        self.abort_with(&Signal::Abort { bad_csm_option: None, why: why.to_owned() }, out);
    }

    fn abort_with(&mut self, abort: &Signal, out: &mut Vec<Output<T>>) {
        out.push(Output::Send(abort.message()));
        self.over(CloseReason::Broken, out);
    }

    fn over(&mut self, reason: CloseReason, out: &mut Vec<Output<T>>) {
        self.lost(out);
        out.push(Output::Close(reason));
    }

    fn deadline(&self, now: Millis) -> Millis {
        now.plus(self.limits.exchange_timeout)
    }

    /// How many bytes of payload fit beside the options of `message` in what the peer takes.
    fn room(&self, message: &Message) -> usize {
        let header = tcp::size(message) - message.payload.len();
        // A block option, Size and ETag may join, and the length field may grow.
        let spare = 32;
        usize::try_from(self.peer.max_message_size).unwrap_or(usize::MAX).saturating_sub(header + spare)
    }
}
