//! Keeps the applications of one release running: what to start and stop, when to try again, when an application is ready.
//!
//! [`Roster`] and [`Application`] decide and touch nothing; [`Keeper`] performs, one thread an application.

mod application;
mod backoff;
mod keeper;
mod log;
mod roster;

pub use application::{Application, Fact, Policy, Step};
pub use backoff::Backoff;
pub use keeper::{Keeper, Kept, Report, Workshop};
pub use log::{CappedLog, Pace, end_of_log};
pub use roster::{Change, Roster};
