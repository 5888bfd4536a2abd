//! How much a process writes into its log. Never says where.

use crate::words::words;

words! {
    /// The least important message that is written; the fewest messages first.
    LogLevel {
        /// A person must act.
        Error = "error",
        /// It healed itself.
        Warn = "warn",
        /// What happened.
        Info = "info",
        /// How it happened.
        Debug = "debug",
    }
}
