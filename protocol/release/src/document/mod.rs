//! The documents that a release consists of, as exact as their format page. Never says whether to trust one.

mod component;
mod error;
mod firmware_package;
mod host_uki;
mod json;
mod os_index;
mod release;
mod system_configuration;
mod uki;

pub use component::{Component, Kind};
pub use error::DocumentError;
pub use firmware_package::FirmwarePackage;
pub use host_uki::HostUki;
pub use os_index::{BLOCK_BYTES, Blocks, OsIndex, Section, SectionName};
pub use release::{Health, Release};
pub use system_configuration::{Connection, ConnectionKind, Ip, SystemConfiguration};
pub use uki::Span;

use serde::{Deserialize, Serialize};

/// The number in `format`: a document of another format is refused before anything else of it is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FormatOne;

impl TryFrom<u32> for FormatOne {
    type Error = String;
    fn try_from(format: u32) -> Result<Self, String> {
        if format == 1 { Ok(Self) } else { Err(format!("format {format} is not known, only format 1 is")) }
    }
}

impl From<FormatOne> for u32 {
    fn from(FormatOne: FormatOne) -> Self {
        1
    }
}
