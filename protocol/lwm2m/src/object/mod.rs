//! Paths, object definitions, and the accounts that objects 0 and 1 describe. Never holds the values of other objects.

pub mod accounts;
pub mod attributes;
pub mod definition;
pub mod path;

mod standard;

pub use accounts::{Accounts, SecurityAccount, SecurityMode, ServerAccount};
pub use attributes::Attributes;
pub use definition::{Object, Operations, Resource, Type, definition, resource_type};
pub use path::{Path, PathError};
pub use standard::{OBJECTS, ids};
