//! Everything that one reliable connection owes the standard: capabilities, tokens, deadlines, block-wise transfer both ways.

use std::time::Duration;

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
