//! What can be brought to devices: artifacts, and the signed metadata that lists releases of them. Never signs.

pub(crate) mod artifacts;
pub(crate) mod repository;
