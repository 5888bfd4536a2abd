//! How a device stands: to the account that it belongs to, and to the schedule that it has promised.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a device may take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It takes part.
    Active,
    /// An operator has suspended it: it cannot register.
    Suspended,
    /// Its identity was seen in two places: it may register and report, and gets nothing.
    Quarantined,
    /// It was taken out of service for good; only a new enrolment that names it lets it come back.
    Decommissioned,
}

/// How a device stands to the schedule that it has promised itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It is registered over a connection that stands.
    Connected,
    /// It is not connected, as it has promised, and not yet due.
    Sleeping,
    /// It should be here.
    Late,
    /// It should be here since two lifetimes of its registration.
    Lost,
}

impl Presence {
    /// The presence as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Sleeping => "sleeping",
            Self::Late => "late",
            Self::Lost => "lost",
        }
    }
}

impl Standing {
    /// All standings.
    pub const ALL: &[Self] = &[Self::Active, Self::Suspended, Self::Quarantined, Self::Decommissioned];

    /// The standing as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Decommissioned => "decommissioned",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a standing is active, suspended, quarantined or decommissioned")]
pub struct UnknownStanding;

impl FromStr for Standing {
    type Err = UnknownStanding;
    fn from_str(text: &str) -> Result<Self, UnknownStanding> {
        Self::ALL.iter().copied().find(|standing| standing.as_str() == text).ok_or(UnknownStanding)
    }
}
