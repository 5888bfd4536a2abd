//! Lets the loader choose the other slot from now on, because the system that it chose cannot start any more. The one write of the initrd to
//! the boot partition: renames, of which the last takes the confirmed entry's tries. Never takes those of the only entry that is left.

use std::{fs::File, io, path::Path};

use device_disk::esp::Esp;
use protocol_types::boot::{BootEntry, Tries};

/// Takes the tries of the confirmed entry `from`, on the boot partition `esp`. The entry that the loader chooses then; none if there is no
/// other one that was ever confirmed, and nothing has changed.
///
/// # Errors
/// If the boot partition cannot be read or changed.
pub fn give_way(esp: &Path, from: BootEntry) -> io::Result<Option<BootEntry>> {
    let mut esp = Esp::new(File::options().read(true).write(true).open(esp)?)?;
    let names = esp.list()?;
    let to = other(names.iter().filter_map(|name| BootEntry::parse(name)), from);
    let Some(to) = to else { return Ok(None) };
    // After a cut between the two, the loader has a choice, and both are counted.
    if to.gave_way() {
        esp.rename(&to.to_string(), &to.confirmed().to_string())?;
    }
    let exhausted = BootEntry { tries: Some(Tries::GAVE_WAY), ..from };
    esp.rename(&from.to_string(), &exhausted.to_string())?;
    Ok(Some(to.confirmed()))
}

/// The newest confirmed entry of the other slot, if `from` is confirmed itself: the loader counts the tries of all others. Without one,
/// the entry that gave way before: to start it once more is better than to start for ever what does not come up either.
fn other(entries: impl Iterator<Item = BootEntry>, from: BootEntry) -> Option<BootEntry> {
    let was_confirmed = |entry: &BootEntry| entry.tries.is_none() || entry.gave_way();
    let may = |entry: &BootEntry| from.tries.is_none() && entry.slot != from.slot && was_confirmed(entry);
    entries.filter(may).max_by_key(|entry| (entry.tries.is_none(), entry.generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gives_way(from: &str, entries: &[&str]) -> Option<String> {
        let entries = entries.iter().filter_map(|name| BootEntry::parse(name));
        other(entries, BootEntry::parse(from).unwrap()).map(|entry| entry.to_string())
    }

    #[test]
    fn only_a_confirmed_system_gives_way_and_only_to_a_confirmed_one_of_the_other_slot() {
        assert_eq!(gives_way("mbl-5-b.efi", &["mbl-5-b.efi", "mbl-4-a.efi"]).as_deref(), Some("mbl-4-a.efi"));
        assert_eq!(gives_way("mbl-5-b.efi", &["mbl-5-b.efi"]), None);
        assert_eq!(gives_way("mbl-5-b.efi", &["mbl-5-b.efi", "mbl-3-b.efi"]), None);
        assert_eq!(gives_way("mbl-5-b.efi", &["mbl-5-b.efi", "mbl-6-a+2-1.efi"]), None, "on trial");
        assert_eq!(gives_way("mbl-4-a.efi", &["mbl-4-a.efi", "mbl-5-b+0.efi"]), None, "below the floor");
        assert_eq!(gives_way("mbl-4-a.efi", &["mbl-4-a.efi", "mbl-5-b+0-3.efi"]), None, "never confirmed");
        let back = gives_way("mbl-4-a.efi", &["mbl-4-a.efi", "mbl-5-b+0-5.efi"]);
        assert_eq!(back.as_deref(), Some("mbl-5-b+0-5.efi"), "back to where it came from");
        let entries = ["mbl-4-a.efi", "mbl-5-b+0-5.efi", "mbl-3-b.efi"];
        assert_eq!(gives_way("mbl-4-a.efi", &entries).as_deref(), Some("mbl-3-b.efi"));
        assert_eq!(gives_way("mbl-5-b+2-1.efi", &["mbl-5-b+2-1.efi", "mbl-4-a.efi"]), None, "the loader counts");
    }
}
