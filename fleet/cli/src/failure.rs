//! Errors as people and scripts meet them: a sentence, a hint what to do next, and a documented exit code.

use std::{fmt, process::ExitCode};

/// Exit codes, documented in `docs/guides/command-line.md`; a released code never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something went wrong on this machine.
    Failed = 1,
    /// The command line makes no sense.
    Misuse = 2,
    /// The service understood and refused.
    Refused = 3,
    /// The service was not reached.
    NotReached = 4,
    /// What was watched ended badly.
    WatchedFailed = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with a way out.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// A failure whose message says what was tried on what.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, source: None }
    }

    /// Adds what to type or do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.source = Some(cause.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|cause| &**cause as _)
    }
}

/// The first hint and the exit code that an error or one of its causes carries.
pub(crate) fn way_out(error: &anyhow::Error) -> (Exit, Option<&str>) {
    let failures = || error.chain().filter_map(|cause| cause.downcast_ref::<Failure>());
    let exit = failures().map(|failure| failure.exit).next().unwrap_or(Exit::Failed);
    (exit, failures().find_map(|failure| failure.hint.as_deref()))
}
