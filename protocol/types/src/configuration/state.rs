//! What became of the configuration that a device was given.

use std::fmt;

/// The state of the configuration that a device was given last. A released word never changes its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfigurationState {
    /// None was given.
    #[default]
    None,
    /// It is in force until the service was reached with it, or the limit has passed.
    Trial,
    /// It is in force, and the service was reached with it.
    Confirmed,
    /// It could not be brought into force; the one before is.
    Refused,
    /// The service was not reached with it in time; the one before is in force.
    Undone,
}

impl ConfigurationState {
    pub(super) const ALL: [Self; 5] = [Self::None, Self::Trial, Self::Confirmed, Self::Refused, Self::Undone];

    /// The state as object 26242 writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Trial => "trial",
            Self::Confirmed => "confirmed",
            Self::Refused => "refused",
            Self::Undone => "undone",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for ConfigurationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
