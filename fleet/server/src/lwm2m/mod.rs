//! The two ports on which devices speak CoAP over TLS: bootstrap and enrolment on one, management on the other.
//!
//! ```text
//! port         accepts, shakes hands within limits, finds out who it is
//!   └ wire     one connection: bytes ⇄ messages ⇄ `protocol_lwm2m::server::Session`
//!       ├ bootstrap     decides on the bootstrap port: admit, write the accounts, answer EST
//!       └ management    one connection of the management port: takes reports, hands out what is wanted
//!           ├ decisions register, stay registered, renew certificates
//!           └ errands   what the service wants of a registered device, in order
//! clones       one identity in two places
//! commands     what operators ask of a device, and what it answers
//! jobs         object 26244: parts of jobs
//! configuration  object 26242: what the service writes of a device's configuration and reads of it
//! metrics      object 26243: the budget, what devices measured, what of it is on disk
//! presence     writes many registrations in one transaction
//! live         which devices are connected here, and what their connections must look at again
//! report       what a device says about its software, read from object 26241
//! est          the certificate requests of both ports
//! ```
//!
//! Every device has one task; a newer connection replaces the older one. Nothing that a device or an operator was told lives
//! only here: the store has it first.

mod bootstrap;
mod clones;
mod commands;
mod configuration;
mod decisions;
mod errand_span;
mod errands;
mod est;
mod jobs;
mod live;
mod management;
mod metrics;
mod overdue;
mod port;
mod presence;
mod report;
mod settings;
mod tries;
mod wire;

use std::{net::IpAddr, sync::Arc};

use fleet_store::Change;
use tokio::sync::broadcast::error::RecvError;

pub(crate) use live::{Attention, LiveDevices};
pub(crate) use metrics::MetricsRecorder;
pub(crate) use overdue::{tell_overdue, tell_overdue_every};
pub(crate) use port::{Door, Port, serve};
pub(crate) use presence::PresenceRecorder;

use crate::fleet::Fleet;

/// What the connections of both ports share.
#[derive(Clone)]
pub(crate) struct Devices {
    pub(crate) fleet: Fleet,
    pub(crate) presence: PresenceRecorder,
    pub(crate) metrics: MetricsRecorder,
    pub(crate) live: Arc<LiveDevices>,
}

/// Which port a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Bootstrap and enrolment.
    Bootstrap,
    /// Management.
    Management,
}

impl Duty {
    /// The port's name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Management => "lwm2m",
        }
    }
}

/// Tells connections what has changed for their devices, until the service stops.
pub(crate) async fn pass_on_changes(devices: Devices) {
    let mut changes = devices.fleet.signals.subscribe();
    loop {
        let change = tokio::select! {
            () = devices.fleet.stop.cancelled() => return,
            change = changes.recv() => change,
        };
        match change {
            Ok(Change::Desired(account, endpoint)) => devices.live.call(&account, &endpoint, Attention::WISH),
            Ok(Change::Standing(account, endpoint)) => devices.live.call(&account, &endpoint, Attention::STANDING),
            Ok(Change::Configuration(account)) => devices.live.call_account(&account, Attention::CONFIGURATION),
            Ok(Change::Labels(account, endpoint) | Change::Released(account, endpoint)) => {
                devices.live.call(&account, &endpoint, Attention::CONFIGURATION);
            }
            Ok(Change::Command(account, endpoint)) => devices.live.call(&account, &endpoint, Attention::COMMANDS),
            Ok(
                Change::Event(_) | Change::Device(..) | Change::Rollouts(_) | Change::Operations(_) | Change::Job(..),
            ) => {}
            Err(RecvError::Lagged(_)) => {
                let everything = Attention::WISH | Attention::STANDING | Attention::CONFIGURATION;
                devices.live.call_all(everything | Attention::COMMANDS);
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// A host as it stands in a URI.
fn in_uri(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(_)) | Err(_) => host.to_owned(),
    }
}

impl Fleet {
    fn device_host(&self) -> String {
        in_uri(self.addresses.public_hosts.first().map_or("localhost", String::as_str))
    }

    /// Where devices register.
    fn management_uri(&self) -> String {
        format!("coaps+tcp://{}:{}", self.device_host(), self.addresses.lwm2m.port())
    }

    /// Where devices fetch metadata and artifacts.
    fn artifact_uri(&self) -> String {
        format!("https://{}:{}", self.device_host(), self.addresses.artifacts.port())
    }
}
