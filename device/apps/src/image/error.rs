//! The ways in which an image's documents are refused.

use protocol_types::ReasonCode;

use crate::refusal::Coded;

/// A document of an image that is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not the JSON form of the document.
    #[error("{document} does not have the form of OCI image specification 1.1")]
    Malformed {
        /// Which document.
        document: &'static str,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// The form is right but a value is not.
    #[error("{document} breaks the OCI image specification: {what}")]
    Invalid {
        /// Which document.
        document: &'static str,
        /// The rule that is broken.
        what: String,
    },
    /// A blob of a kind that is not supported.
    #[error("{what} has the media type `{media_type}`, which is not supported")]
    MediaType {
        /// What has it.
        what: &'static str,
        /// The media type, shortened.
        media_type: String,
    },
    /// A blob or document that exceeds a limit.
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// No manifest for this processor.
    #[error("the image has nothing for linux on {architecture}")]
    Platform {
        /// The processor architecture of this device, in OCI's words.
        architecture: String,
    },
    /// The user that the image asks for is not defined inside it.
    #[error("the image runs as user `{user}`, which it does not define")]
    UnknownUser {
        /// The user, shortened.
        user: String,
    },
}

impl Coded for ImageError {
    fn code(&self) -> ReasonCode {
        match self {
            Self::Malformed { .. } | Self::Invalid { .. } | Self::MediaType { .. } | Self::UnknownUser { .. } => {
                ReasonCode::MalformedImage
            }
            Self::TooLarge { .. } => ReasonCode::Oversized,
            Self::Platform { .. } => ReasonCode::WrongArchitecture,
        }
    }
}

impl ImageError {
    pub(super) fn invalid(document: &'static str, what: impl Into<String>) -> Self {
        Self::Invalid { document, what: what.into() }
    }
}

/// At most 80 characters of what a stranger wrote, without control characters.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}
