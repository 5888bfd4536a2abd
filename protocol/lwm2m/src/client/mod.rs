//! The device's side of LwM2M 1.1: bootstrap, registration, device management and notifications as one state machine.
//! Never dials, waits or stores; it says so in steps, and hears what happened in facts.
//!
//! [`Client::new`] takes the accounts kept from before, if any; then each fact goes to [`Client::on`] with the objects of the device.

mod bootstrap;
mod dispatch;
mod facts;
mod objects;
mod observers;
mod registration;
mod retry;
mod state;
mod tree;

pub use facts::{DialFailure, Fact, Settings, Step, Target};
pub use objects::{ObjectError, Objects, Reading, WriteMode};
pub use state::Client;
