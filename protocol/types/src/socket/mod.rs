//! The local sockets between the three device processes: frames, greetings and messages.
//!
//! `mbl-updater` listens on `updater.sock` for the agent; `mbl-apps` listens on `apps.sock` for the agent and the updater. Each
//! side sends a greeting first. The listener checks the peer's credentials (`SO_PEERCRED`) against the user that its
//! configuration names for the role in the greeting. A lost connection is made again by the side that dialled, and both repeat
//! their newest wish or status: no message needs to survive a connection.
//!
//! On a board with an operating system image, `mbl-updater configure-system` answers the agent on `system.sock`: the service manager listens
//! there and starts one for each connection, which carries one question and one answer.
//!
//! `mbl-updater install` dials both sockets as [`Role::Installer`] and speaks the agent's messages: it brings the bytes of one
//! exported release in the agent's place. It must run as root. While one is connected, `mbl-apps` asks it first and the agent for
//! what it does not have.

mod frame;
mod messages;
mod settings;
mod system;

pub use frame::{FrameError, FrameReader, MAX_FRAME, encode};
pub use messages::{
    AgentToApps, AgentToUpdater, ApplicationState, ApplicationStatus, AppsToAgent, AppsToUpdater, Contact, Fetch,
    FetchError, Fetched, Greeting, MAX_FETCH, MAX_LOG, PROTOCOL, Role, UpdaterToAgent, UpdaterToApps,
};
pub use settings::{AppsSettings, GivenToApplication, SecretValue, UpdaterSettings};
pub use system::{AgentToSystem, SystemToAgent};
