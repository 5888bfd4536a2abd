//! Layers of an image: archives from strangers that become files of an application, or do not.
//!
//! A layer is read twice. The first pass looks at every entry and takes the digest of the archive without writing a byte
//! ([`check`]); the second applies the whiteouts of the layer to what lower layers left, and puts its entries in place
//! ([`apply`]). Nothing here follows a symbolic link, and nothing is written outside the tree.

mod archive;
mod decode;
mod entry;
mod error;
mod tree;
mod unpack;

pub use archive::walk;
pub use decode::decoder;
pub use entry::{Entry, Kind, LayerPath};
pub use error::LayerError;
pub use tree::Tree;
pub use unpack::{Budget, Checked, apply, check};
