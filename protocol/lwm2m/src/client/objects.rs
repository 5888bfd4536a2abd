//! The objects of the device, as the client asks for them; the agent implements this. Objects 0 and 1 are the client's own.

use crate::{
    coap::Code,
    formats::{Entry, Value},
    object::{Accounts, Path},
};

/// What a resource holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// The value of a single resource.
    Single(Value),
    /// The instances of a multiple resource by id.
    Multiple(Vec<(u16, Value)>),
}

impl<T: Into<Value>> From<T> for Reading {
    fn from(value: T) -> Self {
        Self::Single(value.into())
    }
}

/// What happens to what a Write does not name (OMA LwM2M 1.1 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// They stay (POST).
    Partial,
    /// They go (PUT).
    Replace,
}

/// Why an object does not do what a server asks; each has one response code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object, instance or resource: 4.04.
    #[error("there is nothing at this path")]
    NotFound,
    /// The operation is not allowed on it: 4.05.
    #[error("this operation is not allowed here")]
    NotAllowed,
    /// The value has the wrong type or range: 4.00.
    #[error("{0}")]
    BadValue(String),
    /// It failed for a reason of the device: 5.00.
    #[error("{0}")]
    Failed(String),
}

impl ObjectError {
    /// The response code of the refusal.
    pub const fn code(&self) -> Code {
        match self {
            Self::NotFound => Code::NOT_FOUND,
            Self::NotAllowed => Code::METHOD_NOT_ALLOWED,
            Self::BadValue(_) => Code::BAD_REQUEST,
            Self::Failed(_) => Code::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The objects of a device other than 0 and 1, and where object 1 is kept. Called only for objects in [`Objects::objects`] and resources
/// whose definition (in [`crate::object::OBJECTS`]) allows the operation, with values of the defined type.
pub trait Objects {
    /// The ids of the objects that the device has, in order.
    fn objects(&self) -> Vec<u16>;

    /// The ids of the instances of an object, in order.
    fn instances(&self, object: u16) -> Vec<u16>;

    /// Reads a resource; `NotFound` for an optional one that the device does not have.
    fn read(&self, object: u16, instance: u16, resource: u16) -> Result<Reading, ObjectError>;

    /// Writes entries, all or none. `target` is what the server named: an instance, a resource or a resource instance that exists;
    /// with [`WriteMode::Replace`], what lies below it and is not in `entries` goes. The client notifies observers by itself.
    fn write(&mut self, target: &Path, mode: WriteMode, entries: &[Entry]) -> Result<(), ObjectError>;

    /// Executes a resource with its arguments (section 6.3), which are not checked. What it sets off should begin after the
    /// answer had a chance to leave.
    fn execute(&mut self, object: u16, instance: u16, resource: u16, arguments: &str) -> Result<(), ObjectError>;

    /// Keeps accounts that a server has changed in object 1, durably: then the server hears that its Write was taken. After a refusal those
    /// of before stay in use.
    fn keep_accounts(&mut self, accounts: &Accounts) -> Result<(), ObjectError>;
}
