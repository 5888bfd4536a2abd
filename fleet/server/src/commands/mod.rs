//! Commands of operators as what goes to a device and what comes back. Never touches a connection or the store.
//!
//! ```text
//! paths    what a command may be about, and what is kept from it
//! values   values of resources as text, and back
//! order    a command as an operation on the device, and the answer as what came of it
//! overdue  ends commands whose deadline has come
//! ```

pub(crate) mod order;
pub(crate) mod overdue;
pub(crate) mod paths;
pub(crate) mod values;
