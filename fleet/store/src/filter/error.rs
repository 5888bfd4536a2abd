//! What is wrong with a filter, and where.

use std::ops::Range;

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, at character {}", at.saturating_add(1))]
pub struct FilterError {
    /// What is wrong, in one sentence.
    pub message: String,
    /// How many characters stand before the place.
    pub at: usize,
    /// How many characters of the filter are to blame; 0 if something is missing there.
    pub length: usize,
    /// What to do about it; empty where nothing can be said.
    pub hint: String,
}

impl FilterError {
    /// An error at these bytes of `text`.
    pub(super) fn new(text: &str, bytes: Range<usize>, message: impl Into<String>) -> Self {
        let characters = |range: Range<usize>| text.get(range).map_or(0, |part| part.chars().count());
        Self { message: message.into(), at: characters(0..bytes.start), length: characters(bytes), hint: String::new() }
    }

    #[must_use]
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}
