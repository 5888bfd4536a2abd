//! What a device, the service and two foreign clients make of real repositories, good and bad. Nothing here is simulated but the
//! network and the clock: every file is signed with a real key.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod admission;
mod any_bytes;
mod attacks;
mod corpus;
mod device;
mod documents;
mod fits;
mod keys;
mod oracles;
mod settings;
mod time;
mod world;
