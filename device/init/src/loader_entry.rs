//! The EFI variable in which the boot loader leaves the name of the entry that it chose. Never touches a disk.

use protocol_types::boot::BootEntry;

/// The variable's file in efivarfs; the identifier is the vendor's that the Boot Loader Interface reserves.
pub const FILE: &str = "LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// The longest variable that is read.
pub const MAX_BYTES: usize = 1024;

/// Reads the variable: four bytes of attributes, then UTF-16 with an end mark. `None` if it does not name an entry of ours.
pub fn parse(bytes: &[u8]) -> Option<BootEntry> {
    let (_attributes, text) = bytes.get(..bytes.len().min(MAX_BYTES))?.split_first_chunk::<4>()?;
    let (units, odd) = text.as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    BootEntry::parse(&String::from_utf16(&units).ok()?)
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

    #[test]
    fn the_entry_is_read_with_its_counter() {
        assert_eq!(parse(&variable("mbl-2-b+2-1.efi")), BootEntry::parse("mbl-2-b+2-1.efi"));
        assert_eq!(parse(&variable("windows.efi")), None);
        assert_eq!(parse(&[6, 0, 0, 0, 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
