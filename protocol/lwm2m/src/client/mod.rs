//! The device's side of LwM2M 1.1: bootstrap, registration, device management and notifications as one state machine.
//!
//! `Client::new(settings, accounts_kept_from_before)`, then `client.on(now, fact, &mut objects) -> Vec<Step>` for each fact.
//! Never dials, waits or stores; it says so in steps, and hears what happened in facts.

mod facts;
mod objects;

pub use facts::{DialFailure, Fact, Settings, Step, Target};
pub use objects::{ObjectError, Objects, Reading, WriteMode};
