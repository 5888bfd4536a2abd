//! Journeys of the operating system that take long: `./test --os` runs them, `./test` does not.

mod application;
mod clock;
mod configuration;
mod firmware;
mod floor;
mod gives_way;
mod live;
mod loader;
mod network;
mod radios;
mod recovery;
mod reset;
mod returns;
mod settings;
mod sockets;
mod state;
mod unattended;
mod watchdog;
