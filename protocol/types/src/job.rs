//! How far a job is. Never says what it does, or what became of each device.

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
    fn three_states_are_ends() {
        assert_eq!(JobState::ALL.iter().filter(|state| state.is_end()).count(), 3);
    }
}
