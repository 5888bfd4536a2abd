//! The local socket `run/apps.sock`: who may speak, and the two conversations, with the agent and with the updater.

mod agent;
mod listener;
mod outbox;

pub use agent::{AgentLink, Bringer};
pub use listener::{Heard, Listener, Peers};
pub use outbox::Outbox;
