//! What the client hears and what it asks for. Never acts.

use std::time::Duration;

use protocol_types::EndpointName;

use crate::{
    coap::{Code, ExchangeError, Limits, Message},
    object::{Accounts, Path},
    time::Millis,
};

/// What the client must know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name under which the device is known, the same as in its certificates.
    pub endpoint: EndpointName,
    /// Bounds of one connection.
    pub limits: Limits,
    /// Longest wait for a connection to stand, from [`Step::Dial`] to the server's first message.
    pub dial_timeout: Duration,
    /// Longest wait for the next message of the bootstrap server.
    pub bootstrap_timeout: Duration,
    /// Longest wait from [`Step::BootstrapDone`] to [`Fact::Enrolled`].
    pub enrol_timeout: Duration,
    /// Wait after a first failure; doubled with each further one. Between half of it and all of it is drawn.
    pub first_retry: Duration,
    /// Ceiling of the wait between two tries.
    pub last_retry: Duration,
    /// Longest wait before the first try after a registration was lost with its connection; between none and all of it is drawn. A service that
    /// restarts loses all its devices at once, and must not get them back at once.
    pub return_spread: Duration,
    /// Refusals of the management server in a row after which the device bootstraps again. A server that cannot be reached
    /// does not count: an outage must not make a whole fleet enrol again.
    pub refusals_before_bootstrap: u32,
    /// Longest time for which a server may send the device away.
    pub longest_absence: Duration,
    /// Seed for tokens and jitter; draw it anew at each start.
    pub seed: u64,
}

impl Settings {
    /// Settings for devices on an ordinary network.
    pub fn new(endpoint: EndpointName, seed: u64) -> Self {
        Self {
            endpoint,
            limits: Limits::default(),
            dial_timeout: Duration::from_secs(30),
            bootstrap_timeout: Duration::from_secs(60),
            enrol_timeout: Duration::from_secs(300),
            first_retry: Duration::from_secs(2),
            last_retry: Duration::from_secs(300),
            // A core of the service takes about a thousand devices a second (`docs/benchmarks.md`), so five thousand return without a queue.
            return_spread: Duration::from_secs(5),
            refusals_before_bootstrap: 3,
            longest_absence: Duration::from_secs(7 * 24 * 60 * 60),
            seed,
        }
    }
}

/// Which server to connect to, with which identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The bootstrap server of the factory document, with the factory certificate.
    Bootstrap,
    /// The management server that bootstrap named, with the operational certificate.
    Management {
        /// Server URI, for example `coaps+tcp://fleet.example:5685`.
        uri: String,
        /// What /0/x/4 holds: public key or certificate of the server; may be empty.
        server_public_key: Vec<u8>,
    },
}

/// Why a connection did not come to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// No route, no answer, name not resolved, connection reset before TLS.
    Unreachable,
    /// TLS failed on certificates: ours is refused or expired, or theirs is not trusted.
    Unauthorized,
}

/// What happened. Facts of a connection end with [`Step::Close`]: nothing of an older connection may be passed on.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The program runs; the first fact.
    Started,
    /// The connection that was asked for stands, TLS included.
    Connected,
    /// The connection that was asked for does not come to stand. Also passed instead of [`Fact::Lost`], after
    /// [`Fact::Connected`], when the server's refusal of our certificate arrives: TLS 1.3 sends it after the handshake.
    DialFailed(DialFailure),
    /// A message arrived on the connection.
    Received(Message),
    /// The connection ended or sent bytes that are no CoAP.
    Lost,
    /// The caller has left the connection, or the try to connect, since it now has another network or key: what failed before says
    /// nothing any more. Dial at once, unless a server has sent the device away.
    DialAnew,
    /// Time went by; always allowed, due at [`Step::WakeAt`].
    TimePassed,
    /// The value at or below this path changed.
    Changed(Path),
    /// The caller wants to send a request of its own on the connection that stands, for example EST. The token is set by the
    /// client; payloads of any size up to `limits.max_body` are cut into blocks. Answered by [`Step::Answered`].
    Request {
        /// The caller's number for it.
        id: u64,
        /// The request.
        request: Message,
    },
    /// After [`Step::BootstrapDone`]: the operational certificate is there, go on to the management server.
    Enrolled,
    /// After [`Step::BootstrapDone`]: no certificate could be had; bootstrap again after a wait.
    EnrolFailed,
    /// Forget that the management server was found and bootstrap again.
    BootstrapAgain,
    /// Deregister and stay silent.
    Stop,
}

/// What the caller must now do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this message to the connection.
    Send(Message),
    /// Connect; answer with [`Fact::Connected`] or [`Fact::DialFailed`].
    Dial(Target),
    /// Write what is still to be written, close the connection, and pass on nothing more of it. Also means: stop connecting.
    Close,
    /// Pass [`Fact::TimePassed`] at this time; replaces any earlier wish.
    WakeAt(Millis),
    /// The bootstrap server has finished and its writes are consistent. Enrol if need be (the connection still stands), keep the
    /// accounts durably together with the certificate, then pass [`Fact::Enrolled`].
    BootstrapDone(Accounts),
    /// A server changed the accounts (for example the lifetime); they are kept ([`super::Objects::keep_accounts`]).
    AccountsChanged(Accounts),
    /// The management server has accepted the registration.
    Registered,
    /// The registration ended: by [`Fact::Stop`], by Disable, with its connection, or because the server forgot it.
    Unregistered,
    /// A server refused what was asked; the client goes on by itself.
    Refused {
        /// Who refused.
        by: Target,
        /// With which code.
        code: Code,
        /// What it said.
        diagnostic: String,
    },
    /// The answer to [`Fact::Request`].
    Answered {
        /// The caller's number.
        id: u64,
        /// The response, whatever its code, with its whole payload.
        result: Result<Message, ExchangeError>,
    },
    /// The client has stopped for good, after [`Fact::Stop`].
    Stopped,
}
