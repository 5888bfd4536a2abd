//! Decides which slot is the booted one, and whether it may go on. Never touches a disk or a key store.

use device_disk::places::Candidate;
use protocol_types::{Digest, SecurityVersion, Slot, boot::BootEntry, partitions::Layout};

/// Why no slot was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSlot {
    /// No disk has the labels of ours.
    #[error("no disk has the partitions esp, root-a, verity-a, root-b, verity-b, factory and state")]
    NoDisk,
    /// No tree has the root hash.
    #[error("no slot has the root hash {wanted}; {found}", wanted = .wanted.hex())]
    NoMatch {
        /// The root hash of the command line.
        wanted: Digest,
        /// What the slots have.
        found: String,
    },
    /// Two disks fit, so it is not clear whose state and identity count.
    #[error("disks {0} and {1} both have a slot with the root hash; remove one")]
    TwoDisks(String, String),
}

/// The slot whose tree has the root hash; if both have it, the one that the loader chose.
///
/// # Errors
/// If no slot has it, or slots of more than one disk.
pub fn choose(candidates: &[Candidate], wanted: Digest, entry: Option<BootEntry>) -> Result<(&Layout, Slot), NoSlot> {
    let slot = |candidate: &Candidate| match (candidate.a == Some(wanted), candidate.b == Some(wanted)) {
        (true, true) => Some(entry.map_or(Slot::A, |e| e.slot)),
        (true, false) => Some(Slot::A),
        (false, true) => Some(Slot::B),
        (false, false) => None,
    };
    let mut fitting = candidates.iter().filter_map(|c| Some((&c.layout, slot(c)?)));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some((one, _)), Some((other, _))) => Err(NoSlot::TwoDisks(one.disk.clone(), other.disk.clone())),
        (None, _) if candidates.is_empty() => Err(NoSlot::NoDisk),
        (None, _) => Err(NoSlot::NoMatch { wanted, found: found(candidates) }),
    }
}

fn found(candidates: &[Candidate]) -> String {
    let hash = |hash: &Option<Digest>| hash.map_or_else(|| "no tree".to_owned(), |h| h.hex());
    let disk = |c: &Candidate| format!("{} has {} in a and {} in b", c.layout.disk, hash(&c.a), hash(&c.b));
    candidates.iter().map(disk).collect::<Vec<_>>().join(", ")
}

/// An image that must not run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("security version {version} is below the floor {floor}")]
pub struct BelowFloor {
    /// Of the image.
    pub version: SecurityVersion,
    /// Of the key store.
    pub floor: SecurityVersion,
}

/// Holds the security version of the signed command line against the floor.
///
/// # Errors
/// If it is below.
pub const fn hold_against(floor: SecurityVersion, version: SecurityVersion) -> Result<(), BelowFloor> {
    if version.0 < floor.0 { Err(BelowFloor { version, floor }) } else { Ok(()) }
}

/// How a machine that cannot go on ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Restart: the loader counts the try, or what was missing may be there next time.
    Restart,
    /// Stop: the same entry would be refused the same way for ever.
    PowerOff,
}

/// The ending after an image was refused for its floor: an entry without a counter would be chosen again and again.
pub const fn ending_below_floor(entry: Option<BootEntry>) -> Ending {
    match entry {
        Some(BootEntry { tries: None, .. }) => Ending::PowerOff,
        Some(BootEntry { tries: Some(_), .. }) | None => Ending::Restart,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::partitions::{LABELS, Partition, layouts};

    use super::*;

    fn disk(name: &str) -> Vec<Partition> {
        let partition = |label: &&str| Partition {
            disk: name.to_owned(),
            device: format!("{name}-{label}"),
            label: (*label).to_owned(),
        };
        LABELS.iter().map(partition).collect()
    }

    fn candidate(name: &str, a: Option<&str>, b: Option<&str>) -> Candidate {
        let hash = |text: Option<&str>| text.map(|t| Digest::of(t.as_bytes()));
        Candidate { layout: layouts(&disk(name)).remove(0), a: hash(a), b: hash(b) }
    }

    fn chosen(candidates: &[Candidate], entry: &str) -> Result<Slot, NoSlot> {
        choose(candidates, Digest::of(b"new"), BootEntry::parse(entry)).map(|(_, slot)| slot)
    }

    #[test]
    fn the_slot_with_the_root_hash_is_chosen_whatever_the_loader_says() {
        let disk = [candidate("vda", Some("old"), Some("new"))];
        assert_eq!(chosen(&disk, "mbl-1-a.efi"), Ok(Slot::B));
        assert_eq!(chosen(&disk, ""), Ok(Slot::B));
    }

    #[test]
    fn if_both_slots_have_it_the_loaders_word_decides() {
        let disk = [candidate("vda", Some("new"), Some("new"))];
        assert_eq!(chosen(&disk, "mbl-2-b+2-1.efi"), Ok(Slot::B));
        assert_eq!(chosen(&disk, "mbl-1-a.efi"), Ok(Slot::A));
        assert_eq!(chosen(&disk, ""), Ok(Slot::A));
    }

    #[test]
    fn no_slot_with_the_root_hash_means_no_boot() {
        assert_eq!(chosen(&[], ""), Err(NoSlot::NoDisk));
        let error = chosen(&[candidate("vda", Some("old"), None)], "mbl-1-a.efi").unwrap_err().to_string();
        assert!(error.contains("no tree in b") && error.contains(&Digest::of(b"new").hex()), "{error}");
    }

    #[test]
    fn a_second_disk_with_the_same_system_is_refused() {
        let disks = [candidate("sda", Some("new"), None), candidate("vda", Some("new"), None)];
        assert_eq!(chosen(&disks, ""), Err(NoSlot::TwoDisks("sda".into(), "vda".into())));
    }

    #[test]
    fn an_entry_without_counter_below_the_floor_stops_the_machine() {
        assert_eq!(ending_below_floor(BootEntry::parse("mbl-1-a.efi")), Ending::PowerOff);
        assert_eq!(ending_below_floor(BootEntry::parse("mbl-1-a+1-1.efi")), Ending::Restart);
        assert_eq!(ending_below_floor(None), Ending::Restart);
    }

    proptest! {
        #[test]
        fn an_image_below_the_floor_never_goes_on(floor: u32, version: u32) {
            let result = hold_against(SecurityVersion(floor), SecurityVersion(version));
            prop_assert_eq!(result.is_ok(), version >= floor);
        }
    }
}
