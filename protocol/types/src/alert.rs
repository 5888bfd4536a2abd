//! How far an alert is. Never says what it is about, or when it moves on.

use crate::words::words;

words! {
    /// How far an alert is.
    AlertState {
        /// The condition holds, but not long enough yet. If it ends before, the alert was never there.
        Pending = "pending",
        /// It has held long enough.
        Raised = "raised",
        /// It is over.
        Resolved = "resolved",
    }
}
