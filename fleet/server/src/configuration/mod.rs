//! Configuration put together: documents of levels merged into what one device should have, with the origin of each setting, and what
//! two documents differ in. Pure functions; `rest/configuration` answers with them and the LwM2M side gives devices what they make.

mod diff;
mod effective;
mod given;
mod merge;
mod secrets;

#[cfg(test)]
mod secret_tests;
#[cfg(test)]
mod tests;

pub(crate) use diff::changes;
pub(crate) use effective::{Effective, effective, replaced};
pub(crate) use given::status;
pub(crate) use secrets::{DeviceSecrets, sealed_for};
