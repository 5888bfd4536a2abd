//! What was booted, from either account of it: the command line that the loader of the board `host` leaves, or the record of the
//! initrd. Never believes a file of the system that could say something else than what the loader or the kernel enforces.

use protocol_types::{BootRecord, Slot, boot::BootEntry};

use crate::{cmdline::Cmdline, plan::Running};

/// Where the verified root says which version it is, from its top on.
pub const OS_RELEASE: &str = "usr/lib/os-release";
/// The longest os-release that is read.
pub const MAX_OS_RELEASE: usize = 16 * 1024;

/// A record that does not say what was booted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootedError {
    /// The loader did not say which entry it chose, and there is none that it could have been.
    #[error("no boot entry leads to the booted slot {0}")]
    NoEntry(Slot),
    /// The entry leads to another slot than the one whose hash tree is enforced.
    #[error("the loader chose {entry}, but slot {slot} was booted")]
    OtherSlot {
        /// The entry.
        entry: BootEntry,
        /// The slot.
        slot: Slot,
    },
}

impl Running {
    /// What the loader of the board `host` booted, after it had hashed the slot.
    pub fn from_cmdline(cmdline: &Cmdline) -> Self {
        Self {
            slot: cmdline.entry.slot,
            root: cmdline.root,
            os_version: cmdline.os_version().to_owned(),
            generation: cmdline.entry.generation,
            security_version: None,
            restarts_agent: false,
            firmware: None,
        }
    }

    /// What the initrd opened, with the `os_release` inside of the root that the kernel verifies, and the entries of the boot
    /// partition for a loader that did not say which one it chose.
    ///
    /// # Errors
    /// If no entry leads to the booted slot, or the loader's leads to another.
    pub fn from_record(record: &BootRecord, os_release: &[u8], entries: &[BootEntry]) -> Result<Self, BootedError> {
        let slot = record.slot;
        let here = entries.iter().filter(|entry| entry.slot == slot).max_by_key(|entry| entry.generation);
        let entry = record.entry.or_else(|| here.copied()).ok_or(BootedError::NoEntry(slot))?;
        if entry.slot != slot {
            return Err(BootedError::OtherSlot { entry, slot });
        }
        let os_version = version_id(os_release).unwrap_or_default().to_owned();
        Ok(Self {
            slot,
            root: record.root_hash,
            os_version,
            generation: entry.generation,
            security_version: Some(record.security_version),
            restarts_agent: true,
            firmware: None,
        })
    }
}

/// `VERSION_ID` by os-release(5), as far as a version can be written: no escapes.
fn version_id(os_release: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(os_release).ok()?;
    let value = text.lines().rev().find_map(|line| line.strip_prefix("VERSION_ID="))?.trim_end();
    let quoted = ['"', '\''].into_iter().find_map(|mark| value.strip_prefix(mark)?.strip_suffix(mark));
    let value = quoted.unwrap_or(value);
    value.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\$`".contains(&b)).then_some(value)
}

/// How the system that runs was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// On trial.
    OnTrial,
    /// As a system that was confirmed.
    Confirmed,
    /// Nobody can tell: there is no account of this boot, it cannot be read, or the loader did not say which entry it chose.
    Unknown,
}

impl Started {
    /// By what the initrd wrote.
    pub fn from_account(bytes: &[u8]) -> Self {
        match BootRecord::parse(bytes).map(|record| record.entry) {
            Ok(Some(entry)) if entry.tries.is_some() => Self::OnTrial,
            Ok(Some(_)) => Self::Confirmed,
            Ok(None) | Err(_) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::{
        Digest, SecurityVersion,
        boot_record::{Format1, StateOutcome},
    };

    use super::*;

    fn record(slot: Slot, entry: &str) -> BootRecord {
        BootRecord {
            format: Format1,
            slot,
            entry: BootEntry::parse(entry),
            root_hash: Digest::of(b"root"),
            security_version: SecurityVersion(1),
            floor: SecurityVersion(0),
            state: StateOutcome::Open,
            reason: None,
        }
    }

    #[test]
    fn the_record_of_the_initrd_says_what_runs() {
        let os_release = b"ID=mbl\nVERSION_ID=\"1.1.0\"\nNAME='Mbed Linux OS'\n";
        let running = Running::from_record(&record(Slot::B, "mbl-2-b+2-1.efi"), os_release, &[]);
        let expected = Running {
            slot: Slot::B,
            root: Digest::of(b"root"),
            os_version: "1.1.0".to_owned(),
            generation: 2,
            security_version: Some(SecurityVersion(1)),
            restarts_agent: true,
            firmware: None,
        };
        assert_eq!(running, Ok(expected));
    }

    #[test]
    fn a_loader_that_did_not_say_leaves_the_newest_entry_of_the_booted_slot() {
        let entries = ["mbl-7-a.efi", "mbl-8-b+0-3.efi", "mbl-3-b.efi"].map(|name| BootEntry::parse(name).unwrap());
        let generation = |slot| Running::from_record(&record(slot, ""), b"", &entries).map(|r| r.generation);
        assert_eq!((generation(Slot::A), generation(Slot::B)), (Ok(7), Ok(8)));
        assert_eq!(Running::from_record(&record(Slot::A, ""), b"", &[]), Err(BootedError::NoEntry(Slot::A)));
    }

    #[test]
    fn a_system_is_confirmed_only_by_an_account_that_says_so() {
        let started = |entry| Started::from_account(&record(Slot::B, entry).to_json());
        assert_eq!(started("mbl-2-b+2-1.efi"), Started::OnTrial);
        assert_eq!(started("mbl-2-b.efi"), Started::Confirmed);
        assert_eq!(started(""), Started::Unknown);
        let cut = record(Slot::B, "mbl-2-b.efi").to_json();
        assert_eq!(Started::from_account(&cut[..cut.len() / 2]), Started::Unknown);
        assert_eq!(Started::from_account(b""), Started::Unknown);
    }

    #[test]
    fn an_entry_of_the_other_slot_is_no_account_of_this_boot() {
        let error = Running::from_record(&record(Slot::A, "mbl-2-b.efi"), b"", &[]).unwrap_err();
        assert!(matches!(error, BootedError::OtherSlot { slot: Slot::A, .. }));
    }

    #[test]
    fn the_version_is_read_with_and_without_quotes_and_never_with_escapes() {
        for (text, version) in [
            ("VERSION_ID=1.2.3-rc1\n", Some("1.2.3-rc1")),
            ("VERSION_ID='13'", Some("13")),
            ("VERSION_ID=1\nVERSION_ID=\"2\"\n", Some("2")),
            ("VERSION_ID=\"1.\\\"2\"", None),
            ("ID=mbl\n", None),
        ] {
            assert_eq!(version_id(text.as_bytes()), version, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_os_release_is_read_without_panic(bytes: Vec<u8>) {
            let _ = version_id(&bytes);
        }
    }
}
