//! The journeys: real programs, real files, real networks, one sentence each. A name starts with its area.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a journey that meets an obstacle has failed")]

mod access;
mod api;
mod app;
mod backup;
mod bucket;
mod cli;
mod compose;
mod configuration;
mod consent;
mod container;
mod directory;
mod environment;
mod fleet;
mod identity;
mod image;
mod island;
mod joining;
mod live;
mod long_list;
mod metrics;
mod monitoring;
mod network;
mod os;
mod os_long;
mod os_power;
mod os_tee;
mod os_tee_firmware;
mod os_tee_store;
mod os_tee_update;
#[path = "../../../fleet/store/src/tests/postgres.rs"]
#[expect(clippy::expect_used, reason = "it says what is missing")]
mod postgres;
mod rollout_crowd;
mod single_sign_on;
mod site;
mod traces;
mod update;
mod users;
mod watching;
mod world;
