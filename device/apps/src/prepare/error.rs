//! The ways in which a set cannot be prepared.

use protocol_types::{AppName, Digest, ReasonCode, socket::FetchError};

use crate::{image::ImageError, layer::LayerError, refusal::Coded, store::StoreError};

/// Why a set of applications is not ready to run. The applications that run are not disturbed.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The release asks for something that cannot be done.
    #[error("application {name} {what}")]
    Spec {
        /// The application.
        name: AppName,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The agent could not bring a blob.
    #[error("cannot fetch {digest} from byte {at}")]
    Fetch {
        /// The blob.
        digest: Digest,
        /// First byte that is missing.
        at: u64,
        /// What the agent says.
        source: FetchError,
    },
    /// The source holds less than was signed.
    #[error("{digest} ends at byte {at} of {size}")]
    Truncated {
        /// The blob.
        digest: Digest,
        /// Bytes that there are.
        at: u64,
        /// Bytes that were signed.
        size: u64,
    },
    /// More bytes arrived than were asked for, or are announced than are accepted.
    #[error("{digest} has {size} bytes where at most {limit} are accepted")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// Bytes that there are.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A document is not accepted.
    #[error("the image of application {name} is refused")]
    Image {
        /// The application.
        name: AppName,
        /// Why.
        source: ImageError,
    },
    /// A layer is not accepted or could not be unpacked.
    #[error("layer {layer} of application {name} is refused")]
    Layer {
        /// The application.
        name: AppName,
        /// Which layer, the lowest being 0.
        layer: usize,
        /// Why.
        source: LayerError,
    },
    /// A blob that was checked when it arrived has changed on the disk; it is gone now and fetched again next time.
    #[error("the disk changed the stored blob {digest}")]
    Damaged {
        /// The blob.
        digest: Digest,
    },
    /// The store failed.
    #[error("cannot keep the applications")]
    Store(#[from] StoreError),
    /// A newer wish replaced this one.
    #[error("a newer wish replaced this one")]
    Interrupted,
}

impl PrepareError {
    /// Whether the same attempt may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Fetch { source: FetchError::Unreachable, .. } | Self::Damaged { .. })
    }
}

impl Coded for PrepareError {
    fn code(&self) -> ReasonCode {
        match self {
            Self::Spec { .. } => ReasonCode::MalformedRelease,
            Self::Fetch { source, .. } => match source {
                FetchError::NotFound => ReasonCode::NotFound,
                FetchError::TooLong => ReasonCode::Oversized,
                FetchError::Unreachable | FetchError::Refused => ReasonCode::Unreachable,
            },
            Self::Truncated { .. } => ReasonCode::Truncated,
            Self::TooLong { .. } => ReasonCode::Oversized,
            Self::Image { source, .. } => source.code(),
            Self::Layer { source, .. } => source.code(),
            Self::Damaged { .. } => ReasonCode::StorageFailed,
            Self::Store(source) => source.code(),
            Self::Interrupted => ReasonCode::Superseded,
        }
    }
}
