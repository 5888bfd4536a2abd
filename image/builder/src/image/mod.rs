//! The image of a board that starts by itself: from the folder `image/` of the tree to parts, disk and component, and their signed
//! form. The same description, lock and programs give the same bytes before signing.

mod bill;
mod build;
mod check;
mod component;
mod description;
mod diff;
mod disk;
mod error;
mod esp;
mod firmware;
mod keys;
mod manifest;
mod programs;
mod report;
mod root_image;
mod run;
mod sign;
mod ssh;
mod trusted;
mod uki;

pub use build::{COMPONENT, DISK, Order, build};
pub use check::{inspect, verify};
pub use description::{Description, load_board, update_lock};
pub use diff::{Change, Difference, FileChange, diff};
pub use disk::DiskError;
pub use error::ImageError;
pub use firmware::{FIRMWARE_CODE, FIRMWARE_PACKAGE, FIRMWARE_ROM, FIRMWARE_VARIABLES, flash_images};
pub use keys::init as init_keys;
pub use manifest::{MANIFEST, Manifest, PARTS};
pub use programs::ProgramsError;
pub use report::{FeatureAllowance, OwnedFile, OwnerShare, Part, REPORT, Report};
pub use run::{HOST_ADDRESS, NoPort, Reach, Threads, make_machine, power_on};
pub use sign::sign;
