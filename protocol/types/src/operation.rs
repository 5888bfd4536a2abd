//! How far a long operation of the service is, and what became of each row. Never says what it does.

use crate::words::words;

words! {
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

words! {
    /// What became of a row.
    RowOutcome {
        /// It was done.
        Done = "done",
        /// It was so already.
        Unchanged = "unchanged",
        /// It was not done; the code says why.
        Refused = "refused",
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
    fn three_states_are_ends() {
        assert_eq!(OperationState::ALL.iter().filter(|state| state.is_end()).count(), 3);
    }
}
