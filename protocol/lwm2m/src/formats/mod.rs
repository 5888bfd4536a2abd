//! What resources hold and how it travels. Every reader takes a byte slice, ends, and allocates in proportion to it.

pub mod link;
pub mod value;

mod content;

pub use content::FormatError;
pub use link::Link;
pub use value::{Entry, ObjectLink, Value};
