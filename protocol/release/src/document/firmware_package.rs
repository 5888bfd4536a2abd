//! How long a firmware image package is, by its table of contents (Trusted Firmware-A, "Firmware Image Package"). Never says whether
//! what it holds is signed: that is the firmware's word.

use super::DocumentError;

const KIND: &str = "firmware image package";
/// How a table of contents begins.
const NAME: [u8; 4] = 0xAA64_0001_u32.to_le_bytes();
/// Name, serial number, flags.
const HEADER_BYTES: usize = 16;
/// Identifier, offset, size, flags.
const ENTRY_BYTES: usize = 40;
/// The identifier that ends the table; its offset is the end of the package.
const END: [u8; 16] = [0; 16];

/// A firmware image package, as far as its first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwarePackage {
    /// How long it is in bytes.
    pub bytes: u64,
}

impl FirmwarePackage {
    /// The longest head of a package that is looked at: room for 100 entries.
    pub const HEAD_BYTES: usize = HEADER_BYTES + 100 * ENTRY_BYTES;
    /// The longest package in bytes.
    pub const MAX_BYTES: u64 = 8 * 1024 * 1024;

    /// Reads the table of contents of a package that begins with `head`.
    ///
    /// # Errors
    /// If it is none, or does not end within `head`, or the package ends before the table does or after [`Self::MAX_BYTES`].
    pub fn parse(head: &[u8]) -> Result<Self, DocumentError> {
        let broken = |rule: &str| DocumentError::rule(KIND, rule);
        let head = head.get(..head.len().min(Self::HEAD_BYTES)).unwrap_or_default();
        let entries = head.get(HEADER_BYTES..).filter(|_| head.starts_with(&NAME));
        let entries =
            entries.ok_or_else(|| broken("it must begin with a table of contents"))?.as_chunks::<ENTRY_BYTES>().0;
        let at = entries.iter().position(|entry| entry.starts_with(&END));
        let at = at.ok_or_else(|| broken("its table of contents must end within its first bytes"))?;
        let offset = entries.get(at).and_then(|end| end.get(16..)?.first_chunk().copied());
        let bytes = offset.map_or(0, u64::from_le_bytes);
        let table = u64::try_from(HEADER_BYTES + (at + 1) * ENTRY_BYTES).unwrap_or(u64::MAX);
        if at == 0 || !(table..=Self::MAX_BYTES).contains(&bytes) {
            return Err(broken("it must have an image, and end behind its table of contents and within 8 MiB"));
        }
        Ok(Self { bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn package(entries: usize, bytes: u64) -> Vec<u8> {
        let mut package = NAME.to_vec();
        package.resize(HEADER_BYTES, 1);
        package.resize(HEADER_BYTES + entries * ENTRY_BYTES, 7);
        package.extend(END);
        package.extend(bytes.to_le_bytes());
        package.extend([0; 16]);
        package
    }

    #[test]
    fn a_package_ends_where_its_table_says() {
        let mut text = package(3, 4096);
        assert_eq!(FirmwarePackage::parse(&text).unwrap().bytes, 4096);
        text.extend([0xff; 4096]);
        assert_eq!(FirmwarePackage::parse(&text).unwrap().bytes, 4096);
    }

    #[test]
    fn what_is_no_package_of_ours_is_refused() {
        for broken in [
            vec![0xff; 8192],
            vec![0; 8192],
            package(0, 4096),
            package(3, 100),
            package(3, FirmwarePackage::MAX_BYTES + 1),
            package(100, 8192),
            package(3, 4096)[..150].to_vec(),
        ] {
            assert!(FirmwarePackage::parse(&broken).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, entries in 0_usize..4, end: u64) {
            drop(FirmwarePackage::parse(&bytes));
            if let Ok(found) = FirmwarePackage::parse(&package(entries, end)) {
                prop_assert_eq!(found.bytes, end);
            }
        }
    }
}
