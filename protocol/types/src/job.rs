//! How far a job is. Never says what it does, or what became of each device.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words::words;

words! {
    /// How far a job is.
    JobState {
        /// Its devices are being chosen.
        Waiting = "waiting",
        /// Its devices have their turns.
        Running = "running",
        /// Every device had its turn; some may have failed.
        Finished = "finished",
        /// A person has stopped it; what was told goes on.
        Cancelled = "cancelled",
        /// It cannot go on.
        Failed = "failed",
    }
}

impl JobState {
    /// Whether nothing more happens.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Finished | Self::Cancelled | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back_as_itself_and_three_are_ends() {
        for state in JobState::ALL {
            assert_eq!(JobState::parse(state.as_str()), Some(*state));
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!(JobState::ALL.iter().filter(|state| state.is_end()).count(), 3);
    }
}
