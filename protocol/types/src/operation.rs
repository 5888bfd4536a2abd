//! How far a long operation of the service is. Never says what it does.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rollout::states;

states! {
    /// How far a long operation is.
    OperationState {
        /// Its turn has not come.
        Waiting = "waiting",
        /// It works.
        Running = "running",
        /// Every row had its turn; some may have been refused.
        Finished = "finished",
        /// A person has stopped it; what was done stays.
        Cancelled = "cancelled",
        /// It cannot go on.
        Failed = "failed",
    }
}

impl OperationState {
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
        for state in OperationState::ALL {
            assert_eq!(OperationState::parse(state.as_str()), Some(*state));
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!(OperationState::ALL.iter().filter(|state| state.is_end()).count(), 3);
    }
}
