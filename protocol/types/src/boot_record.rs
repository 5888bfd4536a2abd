//! What the initrd's program found and did, as it leaves it for the system in `/run/mbl/boot.json`. Never touches a disk.

use serde::{Deserialize, Serialize};

use crate::{Digest, SecurityVersion, Slot, boot::BootEntry};

/// One boot, seen from below: written once by `mbl-init` before it hands over, read by whoever needs to know what runs.
///
/// Its root hash and security version come from the signed command line and were enforced, so this is no claim of a file on the
/// root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootRecord {
    /// The format of the document.
    pub format: Format1,
    /// The slot whose hash tree has the root hash of the command line.
    pub slot: Slot,
    /// The entry as the loader named it when it chose it; none if the loader did not say.
    pub entry: Option<BootEntry>,
    /// The root hash of the root file system, which the kernel now holds every block against.
    pub root_hash: Digest,
    /// The security version of the booted image.
    pub security_version: SecurityVersion,
    /// The floor that the key store held when it was compared.
    pub floor: SecurityVersion,
    /// What became of the state partition.
    pub state: StateOutcome,
    /// Why the state is degraded or was made anew, in one sentence; none when it was opened.
    pub reason: Option<String>,
}

/// The number 1, so that a document of another format is refused when it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Format1;

impl From<Format1> for u32 {
    fn from(Format1: Format1) -> Self {
        1
    }
}

impl TryFrom<u32> for Format1 {
    type Error = &'static str;
    fn try_from(number: u32) -> Result<Self, &'static str> {
        if number == 1 { Ok(Self) } else { Err("a boot record of another format than 1") }
    }
}

/// What became of the state partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateOutcome {
    /// The state of earlier boots is there.
    Open,
    /// A new, empty state was made and sealed.
    Created,
    /// The state partition is not used; what is written is lost at the next restart.
    Degraded,
}

/// A text that is not a boot record.
#[derive(Debug, thiserror::Error)]
pub enum BootRecordError {
    /// Longer than a record can be.
    #[error("a boot record has at most {} bytes", BootRecord::MAX_BYTES)]
    TooLong,
    /// Not the document.
    #[error("cannot read the boot record")]
    Malformed(#[source] serde_json::Error),
}

impl BootRecord {
    /// Where `mbl-init` leaves it.
    pub const PATH: &str = "/run/mbl/boot.json";
    /// Upper bound for the document in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Reads the document.
    ///
    /// # Errors
    /// If it is too long, not JSON, of another format, or has a key too many or too few.
    pub fn parse(bytes: &[u8]) -> Result<Self, BootRecordError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(BootRecordError::TooLong);
        }
        serde_json::from_slice(bytes).map_err(BootRecordError::Malformed)
    }

    /// The document, with a line end; empty if JSON cannot hold it, which its types rule out.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> BootRecord {
        BootRecord {
            format: Format1,
            slot: Slot::B,
            entry: BootEntry::parse("mbl-2-b+2-1.efi"),
            root_hash: Digest::of(b"root"),
            security_version: SecurityVersion(3),
            floor: SecurityVersion(2),
            state: StateOutcome::Degraded,
            reason: Some("the key is sealed to another machine".to_owned()),
        }
    }

    #[test]
    fn the_document_is_the_documented_one() {
        let text = String::from_utf8(record().to_json()).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\"format\":1,\"slot\":\"b\",\"entry\":\"mbl-2-b+2-1.efi\",\"root_hash\":\"{}\",\"security_version\":3,\
                 \"floor\":2,\"state\":\"degraded\",\"reason\":\"the key is sealed to another machine\"}}\n",
                Digest::of(b"root")
            )
        );
        assert_eq!(BootRecord::parse(text.as_bytes()).unwrap(), record());
    }

    #[test]
    fn another_format_or_an_unknown_key_is_refused() {
        let text = String::from_utf8(record().to_json()).unwrap();
        assert!(BootRecord::parse(text.replace("\"format\":1", "\"format\":2").as_bytes()).is_err());
        assert!(BootRecord::parse(text.replace("\"reason\"", "\"why\"").as_bytes()).is_err());
        assert!(BootRecord::parse(&[b' '; BootRecord::MAX_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            drop(BootRecord::parse(&bytes));
        }
    }
}
