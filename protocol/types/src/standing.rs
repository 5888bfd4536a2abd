//! How a device stands: to the account that it belongs to, and to the schedule that it has promised. Never decides either.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::words::words;

words! {
    /// Whether a device may take part.
    Standing {
        /// It takes part.
        Active = "active",
        /// An operator has suspended it: it cannot register.
        Suspended = "suspended",
        /// Its identity was seen in two places: it may register and report, and gets nothing.
        Quarantined = "quarantined",
        /// It was taken out of service for good; only a new enrolment that names it lets it come back.
        Decommissioned = "decommissioned",
    }
}

words! {
    /// How a device stands to the schedule that it has promised.
    Presence {
        /// It is registered over a connection that stands.
        Connected = "connected",
        /// It is not connected, as it has promised, and not yet due.
        Sleeping = "sleeping",
        /// It should be here.
        Late = "late",
        /// It should be here since so long that it will hardly come by itself: two lifetimes of its registration.
        Lost = "lost",
    }
}

/// A text that is no standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a standing is active, suspended, quarantined or decommissioned")]
pub struct UnknownStanding;

impl FromStr for Standing {
    type Err = UnknownStanding;
    fn from_str(text: &str) -> Result<Self, UnknownStanding> {
        Self::parse(text).ok_or(UnknownStanding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_as_it_is_written_in_json_and_in_text() {
        for standing in Standing::ALL {
            assert_eq!(standing.as_str().parse(), Ok(*standing));
            assert_eq!(serde_json::to_string(standing).unwrap(), format!("\"{standing}\""));
        }
        for presence in Presence::ALL {
            assert_eq!(Presence::parse(presence.as_str()), Some(*presence));
        }
        assert_eq!("Active".parse::<Standing>(), Err(UnknownStanding));
    }
}
