//! How bad something is that somebody is told of.

use crate::words::words;

words! {
    /// How bad it is; the least first.
    Severity {
        /// Good to know.
        Info = "info",
        /// Somebody should look.
        Warning = "warning",
        /// Somebody must act.
        Critical = "critical",
    }
}
