//! What the kernel calls the present start of the system, which tells it from every other.

use std::path::Path;

use crate::durable;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The name of this start; empty, and told in the log, where the kernel does not say it.
pub(crate) fn boot_id() -> String {
    let why = match durable::read(Path::new(BOOT_ID), 64) {
        Ok(Some(bytes)) => return String::from_utf8_lossy(&bytes).trim().to_owned(),
        Ok(None) => format!("there is no {BOOT_ID}"),
        Err(error) => crate::cause::Chain(&error).to_string(),
    };
    tracing::warn!(
        why,
        "cannot tell this start of the system from the next: restarts are not counted, and a job that restarts the \
         device may not see that it did"
    );
    String::new()
}
