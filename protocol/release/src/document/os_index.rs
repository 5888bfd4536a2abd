//! The OS index: the sections of one operating system image, each with a digest for every block.

use std::collections::BTreeSet;

use protocol_types::{BoardName, Digest, ReleaseVersion};
use serde::{Deserialize, Serialize};

use super::{
    DocumentError, FirmwarePackage, FormatOne,
    json::{self, JsonDocument},
};

const KIND: &str = "OS index";

/// Length of the blocks whose digests a block list holds.
pub const BLOCK_BYTES: u64 = 4096;

/// What the target of an `os` component holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsIndex {
    /// The version of this format.
    pub format: FormatOne,
    /// The board that the image was built for.
    pub board: BoardName,
    /// Version of the operating system.
    pub version: ReleaseVersion,
    /// The sections, each written to its own place in the idle slot.
    pub sections: Vec<Section>,
    /// The root hash of the hash tree in section `verity`; there exactly if that section is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_hash: Option<Digest>,
}

/// One section of an operating system image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Where it goes.
    pub name: SectionName,
    /// Digest of the whole section.
    pub digest: Digest,
    /// Length of the section in bytes.
    pub size: u64,
    /// The digests of its blocks.
    pub blocks: Blocks,
}

/// Where a section goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SectionName {
    /// The root partition of the slot.
    Root,
    /// The hash tree partition of the slot.
    Verity,
    /// The boot entry of the slot.
    Uki,
    /// The firmware image package, on a board with slots for it.
    Firmware,
}

impl SectionName {
    /// The name as the index and partition labels write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Verity => "verity",
            Self::Uki => "uki",
            Self::Firmware => "firmware",
        }
    }
}

/// The artifact that holds the SHA-256 digest of each block of a section, 32 bytes each, one after the other; the last block is
/// padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// Digest of the block list.
    pub digest: Digest,
    /// Length of the block list in bytes.
    pub size: u64,
}

impl Blocks {
    /// Length in bytes of the block list of a section of `size` bytes.
    pub const fn size_for(size: u64) -> u64 {
        size.div_ceil(BLOCK_BYTES) * 32
    }
}

impl OsIndex {
    /// Upper bound for the JSON text in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The longest section in bytes: its block list is then 32 MiB.
    pub const MAX_SECTION_BYTES: u64 = 4 * 1024 * 1024 * 1024;

    /// Reads the JSON text of an OS index.
    ///
    /// # Errors
    /// If it is too long, not of format 1, or breaks a rule of the format page.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        json::parse(bytes)
    }

    /// The JSON text of an OS index that keeps every rule of the format page.
    ///
    /// # Errors
    /// If it breaks a rule, so that no device would accept it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        json::to_bytes(self)
    }

    /// The section called `name`.
    pub fn section(&self, name: SectionName) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// What a booted system names itself by: the root hash that its kernel enforces, or on a board without a hash tree the digest
    /// of the root section's block list.
    pub fn root_digest(&self) -> Option<Digest> {
        self.root_hash.or_else(|| self.section(SectionName::Root).map(|root| root.blocks.digest))
    }
}

impl JsonDocument for OsIndex {
    const KIND: &'static str = KIND;
    const LIMIT: usize = Self::MAX_BYTES;

    fn check(&self) -> Result<(), DocumentError> {
        let mut names = BTreeSet::new();
        for section in &self.sections {
            let name = section.name.as_str();
            let broken = |rule: String| Err(DocumentError::rule(KIND, format!("section `{name}`: {rule}")));
            if !names.insert(section.name) {
                return broken("it stands twice".to_owned());
            }
            let most = match section.name {
                SectionName::Root | SectionName::Verity | SectionName::Uki => Self::MAX_SECTION_BYTES,
                SectionName::Firmware => FirmwarePackage::MAX_BYTES,
            };
            if section.size == 0 || section.size > most {
                return broken(format!("the size must be from 1 to {most} bytes"));
            }
            let needed = Blocks::size_for(section.size);
            if section.blocks.size != needed {
                return broken(format!("{} bytes need a block list of {needed} bytes", section.size));
            }
        }
        for needed in [SectionName::Root, SectionName::Uki] {
            if !names.contains(&needed) {
                return Err(DocumentError::rule(KIND, format!("there is no section `{}`", needed.as_str())));
            }
        }
        if names.contains(&SectionName::Verity) != self.root_hash.is_some() {
            return Err(DocumentError::rule(KIND, "a section `verity` and a root hash must be there together"));
        }
        Ok(())
    }
}
