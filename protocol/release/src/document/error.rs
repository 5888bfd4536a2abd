//! Why bytes are not a document of the wanted kind.

use protocol_types::{Reason, ReasonCode};

/// Bytes that are not a document of the wanted kind, or a document that breaks a rule of its format.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// More bytes than any document of the kind has.
    #[error("{kind} has {given} bytes, more than the limit of {limit}")]
    TooLong {
        /// The kind of document.
        kind: &'static str,
        /// Bytes given.
        given: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not the JSON form of the kind.
    #[error("{kind} does not have the form of format 1")]
    Malformed {
        /// The kind of document.
        kind: &'static str,
        /// Where and what.
        source: serde_json::Error,
    },
    /// The right form, but a rule is broken.
    #[error("{kind} breaks a rule: {rule}")]
    Rule {
        /// The kind of document.
        kind: &'static str,
        /// The rule, with the value that breaks it.
        rule: String,
    },
}

impl DocumentError {
    pub(super) fn rule(kind: &'static str, rule: impl Into<String>) -> Self {
        Self::Rule { kind, rule: rule.into() }
    }
}

impl From<DocumentError> for Reason {
    fn from(error: DocumentError) -> Self {
        let code = match error {
            DocumentError::TooLong { .. } => ReasonCode::Oversized,
            DocumentError::Malformed { .. } | DocumentError::Rule { .. } => ReasonCode::MalformedRelease,
        };
        match &error {
            // A reason travels alone, so it takes its cause along.
            DocumentError::Malformed { source, .. } => Self::new(code, format!("{error}: {source}")),
            _ => Self::new(code, error.to_string()),
        }
    }
}

/// Refuses what is longer than `limit` before anything of it is read.
pub(super) fn within(kind: &'static str, bytes: &[u8], limit: usize) -> Result<(), DocumentError> {
    if bytes.len() > limit {
        return Err(DocumentError::TooLong { kind, given: bytes.len(), limit });
    }
    Ok(())
}
