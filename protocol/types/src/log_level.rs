//! How much a process writes into its log. Never says where.

use serde::{Deserialize, Serialize};

/// The least important message that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// It healed itself.
    Warn,
    /// What happened.
    Info,
    /// How it happened.
    Debug,
}

impl LogLevel {
    /// The level as documents and command lines write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}
