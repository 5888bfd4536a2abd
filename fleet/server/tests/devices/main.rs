//! Devices against the real `mbl-service` process: enrolment, registration, reports and every refusal, over real TLS.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is unexpected should stop a test at once"
)]

mod artifacts;
mod clones;
mod commands;
mod device;
mod factory;
mod hostile;
mod jobs;
mod life;
mod refusals;
mod service;
mod wire;
mod wishes;
