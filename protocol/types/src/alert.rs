//! How far an alert is. Never says what it is about, or when it moves on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

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

/// A text that is no state of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an alert is `pending`, `raised` or `resolved`")]
pub struct UnknownAlertState;

impl FromStr for AlertState {
    type Err = UnknownAlertState;
    fn from_str(text: &str) -> Result<Self, UnknownAlertState> {
        Self::parse(text).ok_or(UnknownAlertState)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_written_and_read_with_the_same_word_in_json_and_in_text() {
        for state in AlertState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!("Raised".parse::<AlertState>(), Err(UnknownAlertState));
    }
}
