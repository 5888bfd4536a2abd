//! OCI image documents (OCI image specification 1.1): which blobs make an image and what it runs. Never touches a disk.

mod documents;
mod error;
mod user;

pub use documents::{
    BlobRef, Compression, Configuration, ImageProcess, Index, LayerRef, Manifest, Platform, TopDocument, parse_top,
};
pub use error::ImageError;
pub use user::{UserIds, resolve_user};
