//! What resources hold and how it travels. Every reader takes a byte slice, ends, and allocates in proportion to it.

pub mod link;
pub mod senml;
pub mod senml_cbor;
pub mod text;
pub mod tlv;
pub mod value;

mod content;

pub use content::{DEFAULT_FORMAT, FormatError, decode, encode};
pub use link::Link;
pub use value::{Entry, ObjectLink, Value};
