//! The roles to which `targets` delegates, and the paths that belong to each. Never decides whether one is trusted.

use std::{fmt, str::FromStr};

use protocol_types::AppName;

/// A delegated role: who answers for the components of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delegate {
    /// The publisher of the operating system.
    Os,
    /// The team of one application.
    App(AppName),
}

impl Delegate {
    /// The path pattern that the delegation names. A wildcard stands for one whole part of a path, so that clients which let `*`
    /// cross a `/` and clients which do not agree on every path that a release can name.
    pub fn pattern(&self) -> String {
        match self {
            Self::Os => "os/*/*.json".to_owned(),
            Self::App(name) => format!("apps/{name}/*.json"),
        }
    }
}

impl fmt::Display for Delegate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os => f.write_str("os"),
            Self::App(name) => write!(f, "app-{name}"),
        }
    }
}

/// A text that names no delegated role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a delegated role is called `os` or `app-NAME`")]
pub struct DelegateError;

impl FromStr for Delegate {
    type Err = DelegateError;
    fn from_str(text: &str) -> Result<Self, DelegateError> {
        match text.strip_prefix("app-") {
            Some(name) => Ok(Self::App(AppName::new(name).map_err(|_| DelegateError)?)),
            None if text == "os" => Ok(Self::Os),
            None => Err(DelegateError),
        }
    }
}
