//! What a client says when it registers or updates (OMA LwM2M 1.1 section 6.2). Never decides whether it may.

use protocol_types::EndpointName;

use crate::{coap::Code, formats::Link, object::Path};

/// A client's registration.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// The client's name; absent if it leaves that to its certificate.
    pub endpoint: Option<EndpointName>,
    /// Seconds until the registration expires without an update.
    pub lifetime: u32,
    /// The version of LwM2M that it speaks, for example `1.1`.
    pub version: String,
    /// Transports, for example `T`; `U` if it does not say.
    pub binding: String,
    /// Whether it sleeps (`Q`).
    pub queue_mode: bool,
    /// The objects and instances that it has.
    pub paths: Vec<Path>,
    /// The links as they came, with their attributes.
    pub links: Vec<Link>,
}

/// What an update changes; absent means unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegistrationUpdate {
    /// The new lifetime in seconds.
    pub lifetime: Option<u32>,
    /// The new binding.
    pub binding: Option<String>,
    /// The new objects and instances.
    pub links: Option<Vec<Link>>,
}

/// A registration or update that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// A query is missing, has a value out of range, or is not known: 4.00.
    #[error("the query `{0}` is missing or not valid")]
    Query(String),
    /// The version is not spoken here: 4.12.
    #[error("version {0} of LwM2M is not spoken here")]
    Version(String),
    /// The links cannot be read: 4.00.
    #[error("the links cannot be read")]
    Links(#[source] crate::formats::FormatError),
}

impl RegistrationError {
    /// The response code of the refusal.
    pub const fn code(&self) -> Code {
        match self {
            Self::Version(_) => Code::PRECONDITION_FAILED,
            Self::Query(_) | Self::Links(_) => Code::BAD_REQUEST,
        }
    }
}
