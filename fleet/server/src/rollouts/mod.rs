//! Moves devices from one release, or configuration, to the next: `plan` decides, `reconcile` carries out, `why` answers questions about it.

mod end;
mod hold;
mod pace;
mod place;
mod plan;
mod preview;
mod reconcile;
mod report;
mod waves;
mod why;
mod window;

pub(crate) use preview::{Preview, preview};
pub(crate) use reconcile::{reconcile, reconcile_at};
pub(crate) use why::{Why, ended, explain, not_in_audience};
pub(crate) use window::is_zone;

#[cfg(test)]
mod order_tests;
