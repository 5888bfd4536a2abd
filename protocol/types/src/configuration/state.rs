//! What became of the configuration that a device was given.

use crate::words::words;

words! {
    /// The state of the configuration that a device was given last, as object 26242 writes it. A released word never changes its
    /// meaning.
    ConfigurationState {
        /// None was given.
        None = "none",
        /// It is in force until the service was reached with it, or the limit has passed.
        Trial = "trial",
        /// It is in force, and the service was reached with it.
        Confirmed = "confirmed",
        /// It could not be brought into force; the one before is.
        Refused = "refused",
        /// The service was not reached with it in time; the one before is in force.
        Undone = "undone",
    }
}

/// What is so before any was given.
impl Default for ConfigurationState {
    fn default() -> Self {
        Self::None
    }
}
