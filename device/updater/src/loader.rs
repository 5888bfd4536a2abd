//! Chooses what boots, spends its tries and verifies it: what systemd-boot and dm-verity do on a board with a kernel.
//! Never writes a slot, and never trusts one that it has not hashed.

use protocol_release::document::HostUki;
use protocol_types::boot::BootEntry;
use tracing::warn;

use crate::{
    blocks::root_digest,
    cmdline::Cmdline,
    disk::{Disk, Folder, Place},
    storage::{Storage, StorageError},
};

/// A device that does not boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Every entry is exhausted or names a system that does not verify.
    #[error("no boot entry leads to a system that verifies")]
    NothingBoots,
    /// The boot partition cannot be read or changed.
    #[error("cannot use the boot partition")]
    Storage(#[from] StorageError),
}

/// Boots: returns the command line of the entry whose system was verified.
///
/// # Errors
/// If nothing boots or the boot partition cannot be used.
pub fn boot<D: Disk>(storage: &mut Storage<D>) -> Result<Cmdline, BootError> {
    // An entry with a counter runs out of tries by itself; one without would be chosen for ever.
    let mut broken: Vec<BootEntry> = Vec::new();
    loop {
        let entries = storage.entries()?.into_iter().filter(|entry| !broken.contains(entry));
        let chosen = BootEntry::choose(entries).ok_or(BootError::NothingBoots)?;
        let entry = chosen.after_try();
        storage.recount(chosen, entry.tries)?;
        match verified(storage, entry) {
            Ok(cmdline) => return Ok(cmdline),
            Err(why) => {
                warn!(entry = %entry, why, "boot entry does not lead to a system that verifies");
                if entry.tries.is_none() {
                    broken.push(entry);
                }
            }
        }
    }
}

/// Checks the slot of `entry` against the root digest on its command line.
fn verified<D: Disk>(storage: &Storage<D>, entry: BootEntry) -> Result<Cmdline, &'static str> {
    let text = storage.load(Folder::Esp, &entry.to_string(), HostUki::MAX_BYTES);
    let text = text.ok().flatten().ok_or("the entry cannot be read")?;
    let uki = HostUki::parse(&text).map_err(|_| "the entry is malformed")?;
    let found = root_digest(storage, &Place::Slot(entry.slot), uki.size).map_err(|_| "the slot cannot be read")?;
    if found == Some(uki.root) { Ok(Cmdline::of(entry, uki)) } else { Err("the slot does not have the root digest") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol_types::{Digest, Slot};

    use super::*;
    use crate::{blocks::list_of, disk::faulty::FaultyDisk};

    fn install(storage: &mut Storage<FaultyDisk>, entry: &str, image: &[u8]) {
        let slot = BootEntry::parse(entry).unwrap().slot;
        storage.write(&Place::Slot(slot), 0, image).unwrap();
        let uki = HostUki { root: Digest::of(&list_of(image)), size: image.len() as u64, os_release: BTreeMap::new() };
        storage.replace(Folder::Esp, entry, &uki.to_bytes().unwrap()).unwrap();
    }

    fn names(storage: &Storage<FaultyDisk>) -> Vec<String> {
        let mut names: Vec<_> = storage.entries().unwrap().iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_on_trial_spends_its_tries_and_then_the_old_one_boots() {
        let mut storage = Storage::new(FaultyDisk::new(40_000));
        install(&mut storage, "mbl-1-a.efi", &[1; 30_000]);
        install(&mut storage, "mbl-2-b+2.efi", &[2; 40_000]);
        assert_eq!(boot(&mut storage).unwrap().entry.to_string(), "mbl-2-b+1-1.efi");
        assert_eq!(boot(&mut storage).unwrap().entry.to_string(), "mbl-2-b+0-2.efi");
        assert_eq!(boot(&mut storage).unwrap().entry.to_string(), "mbl-1-a.efi");
        assert_eq!(names(&storage), ["mbl-1-a.efi", "mbl-2-b+0-2.efi"]);
    }

    #[test]
    fn one_flipped_bit_in_a_slot_sends_the_device_to_the_other_one() {
        for counter in ["", "+3"] {
            let mut storage = Storage::new(FaultyDisk::new(40_000));
            install(&mut storage, "mbl-1-a.efi", &[1; 30_000]);
            install(&mut storage, &format!("mbl-2-b{counter}.efi"), &[2; 30_000]);
            storage.write(&Place::Slot(Slot::B), 29_999, &[3]).unwrap();
            assert_eq!(boot(&mut storage).unwrap().entry.slot, Slot::A);
        }
    }

    #[test]
    fn a_device_without_a_system_that_verifies_does_not_boot() {
        let mut storage = Storage::new(FaultyDisk::new(40_000));
        assert!(matches!(boot(&mut storage), Err(BootError::NothingBoots)));
        install(&mut storage, "mbl-1-a.efi", &[1; 30_000]);
        storage.write(&Place::Slot(Slot::A), 0, &[3]).unwrap();
        storage.replace(Folder::Esp, "mbl-9-b.efi", b"cmdline: init=/bin/sh\n").unwrap();
        assert!(matches!(boot(&mut storage), Err(BootError::NothingBoots)));
    }
}
