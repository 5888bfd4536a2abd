//! The journeys: real programs, real files, real networks, one sentence each. A name starts with its area.

mod cli;
mod fleet;
mod identity;
