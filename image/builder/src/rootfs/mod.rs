//! The root file system of an image: packages, programs of ours, overlay and generated files, put together in memory.

pub(crate) mod archive;
mod assemble;
mod recipe;
pub(crate) mod tree;
pub(crate) mod unpack;
mod users;

pub use assemble::AssembleError;
pub(crate) use assemble::{Ingredients, assemble};
pub use recipe::{
    Allowance, Description, Feature, ImageKind, Initrd, InitrdPart, Kind, Recipe, RecipeError, Sources, Tools,
};
pub use tree::TreeError;
pub use unpack::UnpackError;
pub use users::Users;
