//! What can go wrong between a board file and a disk image.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use protocol_release::document::DocumentError;

use super::{disk::DiskError, programs::ProgramsError};
use crate::{
    artifacts::ArtifactError,
    board::BoardError,
    command::CommandError,
    initrd::InitrdError,
    kernel::KernelError,
    packages::{LockError, PackageError},
    rootfs::{AssembleError, RecipeError, TreeError, UnpackError},
    sbom::CratesError,
};

/// An image that could not be built, signed or checked.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The board file.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The recipe, a kind, the users or the list of tools.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A kind has a feature that the recipe does not know.
    #[error("the kind `{kind}` cannot be built: {rule}")]
    Kind {
        /// The kind.
        kind: &'static str,
        /// What is wrong.
        rule: String,
    },
    /// An optional feature does not go with the board.
    #[error("the feature `{feature}` cannot be built in: {rule}")]
    Feature {
        /// The feature.
        feature: String,
        /// What is wrong.
        rule: String,
    },
    /// The lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The packages.
    #[error(transparent)]
    Packages(#[from] PackageError),
    /// The files of a package.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The root file system.
    #[error("cannot put the root file system together")]
    Assemble(#[from] AssembleError),
    /// A file that a package should have brought.
    #[error("cannot find a part of the image")]
    Tree(#[from] TreeError),
    /// The programs of ours.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The crates that they are linked from.
    #[error("cannot say what our programs are made of")]
    Crates(#[from] CratesError),
    /// A package that does not say what it is.
    #[error("cannot read what a package says of itself")]
    Control(#[from] CommandError),
    /// The kernel.
    #[error("cannot take the kernel from its package")]
    Kernel(#[from] KernelError),
    /// The initrd.
    #[error("cannot make the initrd")]
    Initrd(#[from] InitrdError),
    /// A build tool.
    #[error("cannot make the {what}")]
    Tool {
        /// What it was to make.
        what: &'static str,
        /// Why it failed.
        source: CommandError,
    },
    /// A tool said something that is not understood.
    #[error("{tool} did not say what was expected: {said}")]
    Said {
        /// The tool.
        tool: &'static str,
        /// What it said.
        said: String,
    },
    /// The disk.
    #[error("cannot make the disk image")]
    Disk(#[from] DiskError),
    /// An artifact.
    #[error("cannot store a section of the operating system")]
    Artifact(#[from] ArtifactError),
    /// The description of the component.
    #[error("cannot describe the operating system")]
    Document(#[from] DocumentError),
    /// A file of the build.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A JSON file of the build is not in its form.
    #[error("{} is not what a build writes", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// The image needs more than the board allows.
    #[error(
        "the {part} needs {needs} bytes, but the board's budget is {allows}; `mbl image inspect` says what needs how much"
    )]
    Budget {
        /// The part.
        part: &'static str,
        /// What it needs.
        needs: u64,
        /// What the board allows.
        allows: u64,
    },
    /// The build is not what it says it is.
    #[error("the build in {} is not whole: {rule}", path.display())]
    Broken {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        rule: String,
    },
    /// Keys could not be made.
    #[error("cannot make the key `{name}`")]
    Key {
        /// Its name.
        name: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// Keys are never overwritten.
    #[error("{} exists; keys are not overwritten, choose another folder", .0.display())]
    KeyExists(PathBuf),
}

/// Copies a file.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), ImageError> {
    fs::copy(from, to).map(drop).map_err(file("copy", from))
}

/// Removes the file or the folder at `path`, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), ImageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Puts the finished folder `fresh` in the place of what is at `path`, if anything is.
pub(super) fn replace(path: &Path, fresh: &Path) -> Result<(), ImageError> {
    remove(path)?;
    fs::rename(fresh, path).map_err(file("move", fresh))
}

/// An [`ImageError::File`] for `path`.
pub(super) fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ImageError + use<'a> {
    move |source| ImageError::File { doing, path: path.to_owned(), source }
}
