//! What is asked of a device by itself, and how far that is. Never says how it is asked or answered.

use crate::words::words;

words! {
    /// What is asked of a device.
    CommandKind {
        /// To tell what lies at a path.
        Read = "read",
        /// To take a value.
        Write = "write",
        /// To do something; never asked twice.
        Execute = "execute",
        /// To tell what lies at a path, and again whenever it changes.
        Observe = "observe",
        /// To do its part of a job; the device itself knows a job that it has had.
        Job = "job",
    }
}

words! {
    /// How far a command is.
    CommandState {
        /// The device has not heard of it.
        Waiting = "waiting",
        /// The device may have heard of it; its answer is awaited.
        Sent = "sent",
        /// The device has taken it and is at it: an observation that brings values, or its part of a job.
        Active = "active",
        /// The device has done it; an observation has come to its end.
        Done = "done",
        /// The device refused it, or failed at it.
        Failed = "failed",
        /// The device did not take it before the deadline.
        Expired = "expired",
        /// A person took it back.
        Cancelled = "cancelled",
        /// The device may have done it or not: its answer was lost. It is not asked again.
        Unknown = "unknown",
    }
}

impl CommandState {
    /// Whether nothing more happens.
    pub const fn is_end(self) -> bool {
        match self {
            Self::Waiting | Self::Sent | Self::Active => false,
            Self::Done | Self::Failed | Self::Expired | Self::Cancelled | Self::Unknown => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_states_are_ends() {
        assert_eq!(CommandState::ALL.iter().filter(|state| state.is_end()).count(), 5);
    }
}
