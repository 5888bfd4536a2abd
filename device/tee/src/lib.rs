//! Speaks to our trusted application in the TEE of a board: the version floor, the digest of the factory document, the key of the
//! state. Never keeps a secret longer than its caller does, and never starts what the TEE needs in the normal world.
//!
//! * [`key_store`]: the commands of the application, typed.
//! * [`session`]: one session with one application, over the kernel's driver.
//! * [`message`]: the driver's structures as bytes of the kernel's interface, and what an answer means.
//!
//! The kernel's interface is four ioctls (Documentation/userspace-api/tee.rst). They are called here and not through `libteec`,
//! which is C and would have to be there wherever this is built; no command of ours needs the shared memory that it is mostly about.

pub mod key_store;
pub mod message;
pub mod session;
mod sys;

pub use key_store::{KeyStore, StateKey};
pub use session::TeeError;

/// The driver's device for clients, of a board with one TEE.
pub const DEVICE: &str = "/dev/tee0";
