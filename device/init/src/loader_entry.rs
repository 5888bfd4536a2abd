//! The EFI variables in which the boot loader leaves what it chose. Never touches a disk.
//!
//! `systemd-boot` names the chosen entry without its counter, and apart from it, only while it counts, the file with the counter
//! after this try.

use protocol_types::boot::BootEntry;

/// The entry's name without counter, as a file of efivarfs; the identifier is that of the Boot Loader Interface.
pub const SELECTED: &str = "LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// The path of the entry's file with its counter; there only if it has one.
pub const COUNTED: &str = "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// The longest variable that is read.
pub const MAX_BYTES: usize = 1024;

/// The entry with its counter, from both variables.
pub fn entry(selected: Option<&[u8]>, counted: Option<&[u8]>) -> Option<BootEntry> {
    let (selected, counted) = (selected.and_then(parse), counted.and_then(parse));
    match (selected, counted) {
        // Of another entry, the counter says nothing about this one.
        (Some(s), Some(c)) if (s.generation, s.slot) != (c.generation, c.slot) => Some(s),
        (_, Some(counted)) => Some(counted),
        (selected, None) => selected,
    }
}

/// Reads one variable: four bytes of attributes, then a name or path in UTF-16 with an end mark. `None` if it does not name an
/// entry of ours.
pub fn parse(bytes: &[u8]) -> Option<BootEntry> {
    let (_attributes, text) = bytes.get(..bytes.len().min(MAX_BYTES))?.split_first_chunk::<4>()?;
    let (units, odd) = text.as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    let path = String::from_utf16(&units).ok()?;
    BootEntry::parse(path.rsplit('\\').next()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(text: &str) -> Vec<u8> {
        let mut bytes = vec![6, 0, 0, 0];
        bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        bytes.extend([0, 0]);
        bytes
    }

    fn read(selected: &str, counted: &str) -> Option<BootEntry> {
        entry(Some(&variable(selected)), Some(&variable(counted)))
    }

    #[test]
    fn the_counter_comes_from_the_path_that_the_loader_counts_in() {
        let counted = "\\EFI\\Linux\\mbl-2-b+2-1.efi";
        assert_eq!(read("mbl-2-b.efi", counted), BootEntry::parse("mbl-2-b+2-1.efi"));
        assert_eq!(entry(None, Some(&variable(counted))), BootEntry::parse("mbl-2-b+2-1.efi"));
    }

    #[test]
    fn an_entry_that_the_loader_does_not_count_has_no_counter() {
        assert_eq!(entry(Some(&variable("mbl-2-b.efi")), None), BootEntry::parse("mbl-2-b.efi"));
        assert_eq!(entry(None, None), None);
    }

    #[test]
    fn a_counter_of_another_entry_is_not_taken() {
        assert_eq!(read("mbl-2-b.efi", "\\EFI\\Linux\\mbl-3-a+2-1.efi"), BootEntry::parse("mbl-2-b.efi"));
    }

    #[test]
    fn the_name_of_another_system_is_none_of_ours() {
        assert_eq!(parse(&variable("windows.efi")), None);
        assert_eq!(parse(&[6, 0, 0, 0, 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Some(entry) = parse(&bytes) {
                prop_assert!(entry.to_string().len() * 2 <= bytes.len());
            }
        }
    }
}
