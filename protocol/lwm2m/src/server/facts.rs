//! What a session hears and what it asks for. Never acts.

use std::time::Duration;

use protocol_types::EndpointName;

use super::{Registration, RegistrationUpdate};
use crate::{
    client::WriteMode,
    coap::{Code, ContentFormat, ExchangeError, Limits, Message},
    formats::{Entry, Link},
    object::{Accounts, Attributes, Path},
    time::Millis,
};

/// What a session must know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds of one connection.
    pub limits: Limits,
    /// Longest wait for the client's first message.
    pub hello_timeout: Duration,
    /// Longest time that a connection may stand without a registration or an exchange under way.
    pub idle_timeout: Duration,
    /// Lifetimes outside this range are refused with 4.00, in seconds.
    pub lifetime: std::ops::RangeInclusive<u32>,
    /// Time after the lifetime before a registration counts as expired.
    pub grace: Duration,
    /// Seed for tokens; draw it anew for each session.
    pub seed: u64,
}

impl Settings {
    /// Settings for a service on an ordinary network.
    pub fn new(seed: u64) -> Self {
        Self {
            // A device has little to say before it is known, and there are many devices.
            limits: Limits { max_message: 16_384, max_body: 65_536, ..Limits::default() },
            hello_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            lifetime: 10..=31_536_000,
            grace: Duration::from_secs(10),
            seed,
        }
    }
}

/// What a client asks for that only the caller can decide. The caller compares `endpoint` with the certificate of the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// `POST /bs?ep=…`: may it bootstrap, and what is written? Answer [`Decision::Bootstrap`] or [`Decision::Refuse`].
    Bootstrap {
        /// The name that the client gives; absent if it leaves that to its certificate.
        endpoint: Option<EndpointName>,
        /// The format that it wants to be written in (`pct`), if it names one.
        preferred: Option<ContentFormat>,
    },
    /// `POST /rd?ep=…`: may it register? Answer [`Decision::Register`] or [`Decision::Refuse`].
    Register(Registration),
    /// `POST /rd/LOCATION`: may it update? Answer [`Decision::Allow`] or [`Decision::Refuse`], with 4.04 for a location that is
    /// not known. Asked only about the registration of this connection; others get 4.04 at once.
    Update(RegistrationUpdate),
    /// Any request other than those of LwM2M, for example EST. Answer [`Decision::Respond`].
    Other(Message),
}

/// The caller's answer to a [`Question`].
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Yes to an update.
    Allow,
    /// Yes to a bootstrap; these writes follow.
    Bootstrap(BootstrapPlan),
    /// Yes to a registration; the client hears `/rd/LOCATION`. At most 32 letters and digits, not guessable from another.
    Register {
        /// The last segment of the location.
        location: String,
    },
    /// No, with a code and a sentence or reason code for the client.
    Refuse {
        /// The response code, for example 4.03.
        code: Code,
        /// The diagnostic payload.
        diagnostic: String,
    },
    /// The response to another request, payload of any size up to `limits.max_body`.
    Respond(Message),
}

/// What the bootstrap server writes, in this order, before it finishes.
#[derive(Clone, Debug, PartialEq)]
pub struct BootstrapPlan {
    /// Paths to delete first; `/` for all but the bootstrap account.
    pub delete: Vec<Path>,
    /// The accounts to write.
    pub accounts: Accounts,
    /// The format of the writes: TLV or SenML-CBOR.
    pub format: ContentFormat,
}

/// What the service wants of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Reads what lies at or below a path.
    Read {
        /// From where.
        path: Path,
        /// In which format; the client chooses if absent.
        accept: Option<ContentFormat>,
    },
    /// Writes entries at or below a path.
    Write {
        /// To where: an instance, a resource or a resource instance.
        path: Path,
        /// What happens to what is not named.
        mode: WriteMode,
        /// What to write.
        entries: Vec<Entry>,
        /// In which format.
        format: ContentFormat,
    },
    /// Executes a resource.
    Execute {
        /// The resource.
        path: Path,
        /// Arguments (section 6.3), may be empty.
        arguments: String,
    },
    /// Asks which instances, resources and attributes there are.
    Discover {
        /// Below which path.
        path: Path,
    },
    /// Reads and asks for notifications, which come as [`Step::Notified`] until cancelled or the connection ends.
    Observe {
        /// What to observe.
        path: Path,
        /// In which format.
        accept: Option<ContentFormat>,
    },
    /// Ends an observation.
    CancelObserve {
        /// The observed path.
        path: Path,
    },
    /// Sets notification attributes.
    WriteAttributes {
        /// Where.
        path: Path,
        /// The attributes to set; absent ones stay.
        attributes: Attributes,
    },
}

/// What a client answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// A code of class 2.
    pub code: Code,
    /// What came with it.
    pub content: Content,
}

/// What came with an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Nothing.
    None,
    /// Values.
    Entries(Vec<Entry>),
    /// Links, after Discover.
    Links(Vec<Link>),
}

/// Why an operation has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// The exchange did not end well.
    #[error("the exchange with the device failed")]
    Exchange(#[from] ExchangeError),
    /// The client said no.
    #[error("the device answered {code} {diagnostic}")]
    Refused {
        /// A code of class 4 or 5.
        code: Code,
        /// What it said.
        diagnostic: String,
    },
    /// What was to be sent does not fit the format.
    #[error("the values cannot be written in the wanted format")]
    Encode(#[source] crate::formats::FormatError),
    /// What came cannot be understood.
    #[error("the answer of the device cannot be read")]
    Decode(#[source] crate::formats::FormatError),
    /// The client is not registered on this connection.
    #[error("the device is not registered on this connection")]
    NotRegistered,
    /// There is no observation of this path to cancel.
    #[error("nothing observes this path")]
    NotObserved,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The connection stands, TLS included; the first fact.
    Opened,
    /// A message arrived.
    Received(Message),
    /// The connection ended or sent bytes that are no CoAP; the last fact.
    Lost,
    /// Time went by; always allowed, due at [`Step::WakeAt`].
    TimePassed,
    /// The answer to [`Step::Ask`].
    Decided {
        /// The number of the question.
        ask: u64,
        /// The answer.
        decision: Decision,
    },
    /// The service wants something of the client; answered by [`Step::Answered`].
    Request {
        /// The caller's number for it.
        id: u64,
        /// What it wants.
        operation: Operation,
    },
    /// End the session kindly: a Release goes out (RFC 8323 section 5.5), then the connection closes.
    Shutdown,
}

/// What the caller must now do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this message to the connection.
    Send(Message),
    /// Write what is still to be written and close the connection; no further fact is needed.
    Close,
    /// Pass [`Fact::TimePassed`] at this time; replaces any earlier wish.
    WakeAt(Millis),
    /// Decide, and pass [`Fact::Decided`]; the client waits meanwhile.
    Ask {
        /// Number of the question in this session.
        ask: u64,
        /// What is to be decided.
        question: Question,
    },
    /// The bootstrap writes were all accepted and the client agreed to finish.
    Bootstrapped,
    /// A bootstrap write or its finish was refused, or the client did not answer.
    BootstrapFailed(RequestError),
    /// The client heard that it is registered. The service should now observe what it needs: no observation outlives a connection.
    Registered(Registration),
    /// The client heard that its update was accepted; the registration as it now is.
    Updated(Registration),
    /// The registration of this connection ended.
    Deregistered(Ended),
    /// An observed path changed.
    Notified {
        /// The caller's number of the Observe.
        id: u64,
        /// The observed path.
        path: Path,
        /// What lies at or below it now.
        entries: Vec<Entry>,
    },
    /// An observation ended although the connection stands: the client refuses it now, or a notification could not be read.
    ObservationEnded {
        /// The caller's number of the Observe.
        id: u64,
        /// The observed path.
        path: Path,
        /// Why.
        error: RequestError,
    },
    /// The answer to [`Fact::Request`].
    Answered {
        /// The caller's number.
        id: u64,
        /// The answer.
        result: Result<Answer, RequestError>,
    },
}

/// How a registration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client deregistered.
    Deregistered,
    /// Its lifetime went by without an update.
    Expired,
    /// Its connection ended.
    ConnectionLost,
    /// It registered again on the same connection.
    Replaced,
}
