//! The local sockets between the three device processes: frames, greetings and messages.
//!
//! `mbl-updater` listens on `updater.sock` for the agent; `mbl-apps` listens on `apps.sock` for the agent and the updater. Each
//! side sends a greeting first. The listener checks the peer's credentials (`SO_PEERCRED`) against the user that its
//! configuration names for the role in the greeting. A lost connection is made again by the side that dialled, and both repeat
//! their newest wish or status: no message needs to survive a connection.

mod frame;
mod messages;

pub use frame::{FrameError, FrameReader, MAX_FRAME, encode};
pub use messages::{
    AgentToApps, AgentToUpdater, ApplicationState, ApplicationStatus, AppsToAgent, AppsToUpdater, Contact, Fetch,
    FetchError, Fetched, Greeting, MAX_FETCH, PROTOCOL, Role, UpdaterToAgent, UpdaterToApps,
};
