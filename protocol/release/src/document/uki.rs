//! Where the signed command line stands in a unified kernel image (UAPI.5 Unified Kernel Image). Never reads more of the image than its
//! head, and never says whether its signature is right: that is the firmware's word.

use protocol_types::signed_cmdline::SignedCmdline;

use super::DocumentError;

const KIND: &str = "unified kernel image";
/// The name of the section, padded as the table of sections has it.
const CMDLINE: [u8; 8] = *b".cmdline";
/// Begins a profile (UAPI.5, "Multi-Profile UKIs").
const PROFILE: [u8; 8] = *b".profile";

/// A run of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub bytes: usize,
}

impl Span {
    /// The longest head of an image that is looked at: the table of sections stands right behind the headers.
    pub const HEAD_BYTES: usize = 16 * 1024;

    /// Finds the command line in an image that begins with `head`, by "PE Format", sections "Signature", "COFF File Header" and "Section
    /// Table".
    ///
    /// # Errors
    /// If it is no PE file, has no command line, more than one, or one that is longer than any of ours, or has profiles: the loader
    /// would start another one than the first (`docs/decisions/0010-factory-reset.md`).
    pub fn of_cmdline(head: &[u8]) -> Result<Self, DocumentError> {
        let sections: Vec<_> = table(head)?.collect();
        if sections.iter().any(|section| is(section, PROFILE)) {
            return Err(broken("it must not have profiles"));
        }
        let mut found = sections.into_iter().filter(|section| is(section, CMDLINE));
        match (found.next(), found.next()) {
            (Some(section), None) => Self::of_section(section),
            (None, _) | (Some(_), Some(_)) => Err(broken("it must have exactly one section `.cmdline`")),
        }
    }

    fn of_section(section: &[u8]) -> Result<Self, DocumentError> {
        let short = || broken("its headers must stand within its first bytes");
        // The raw data is padded to the file's alignment; in memory the section has its true length.
        let (virtual_size, raw_size) = number(section, 8).zip(number(section, 16)).ok_or_else(short)?;
        let bytes = usize::try_from(virtual_size.min(raw_size)).unwrap_or(usize::MAX);
        if bytes > SignedCmdline::MAX_BYTES {
            return Err(broken("its command line must not be longer than a kernel takes"));
        }
        Ok(Self { start: u64::from(number(section, 20).ok_or_else(short)?), bytes })
    }
}

fn broken(rule: &str) -> DocumentError {
    DocumentError::rule(KIND, rule)
}

/// The headers of the sections, in their order.
fn table(head: &[u8]) -> Result<impl Iterator<Item = &[u8]>, DocumentError> {
    let head = head.get(..head.len().min(Span::HEAD_BYTES)).unwrap_or_default();
    if head.get(..2) != Some(b"MZ") {
        return Err(broken("it must begin as a PE file does"));
    }
    let short = || broken("its headers must stand within its first bytes");
    let header = number(head, 0x3c).ok_or_else(short)?;
    let header = usize::try_from(header).ok().and_then(|at| head.get(at..)).ok_or_else(short)?;
    if header.get(..4) != Some(b"PE\0\0") {
        return Err(broken("it must have the signature of a PE file"));
    }
    let half = |at: usize| header.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_le_bytes(*bytes)));
    let (sections, optional) = half(6).zip(half(20)).ok_or_else(short)?;
    let table = header.get(24 + optional..).and_then(|rest| rest.get(..sections * 40)).ok_or_else(short)?;
    Ok(table.chunks_exact(40))
}

fn is(section: &[u8], name: [u8; 8]) -> bool {
    section.first_chunk() == Some(&name)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A PE file as far as it is looked at, with these sections of 20 bytes each.
    fn image(sections: &[&[u8; 8]]) -> Vec<u8> {
        let mut bytes = b"MZ".to_vec();
        bytes.resize(0x3c, 0);
        bytes.extend(0x80_u32.to_le_bytes());
        bytes.resize(0x80, 0);
        bytes.extend(b"PE\0\0\x64\xaa");
        bytes.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
        bytes.resize(0x80 + 20, 0);
        bytes.extend(240_u16.to_le_bytes());
        bytes.resize(0x80 + 24 + 240, 0);
        for (n, name) in sections.iter().enumerate() {
            bytes.extend(*name);
            for field in [20, 0x1000, 512, 0x400 + 512 * u32::try_from(n).unwrap()] {
                bytes.extend(u32::to_le_bytes(field));
            }
            bytes.extend([0; 16]);
        }
        bytes
    }

    #[test]
    fn the_command_line_is_found_among_the_other_sections() {
        let image = image(&[b".osrel\0\0", b".cmdline", b".linux\0\0"]);
        assert_eq!(Span::of_cmdline(&image).unwrap(), Span { start: 0x600, bytes: 20 });
    }

    #[test]
    fn an_image_with_no_command_line_or_with_two_is_refused() {
        assert!(Span::of_cmdline(&image(&[b".osrel\0\0"])).is_err());
        assert!(Span::of_cmdline(&image(&[b".cmdline", b".cmdline"])).is_err());
        assert!(Span::of_cmdline(b"cmdline: mbl.root=").is_err());
    }

    #[test]
    fn an_image_with_profiles_is_refused_wherever_they_stand() {
        let (text, profile): (&[u8; 8], &[u8; 8]) = (b".cmdline", b".profile");
        for sections in
            [&[text, profile][..], &[profile, text], &[text, profile, profile, text], &[text, profile, text]]
        {
            assert!(Span::of_cmdline(&image(sections)).is_err(), "{sections:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            drop(Span::of_cmdline(&bytes));
        }

        #[test]
        fn any_change_of_a_good_head_gives_a_bounded_span_or_none(at in 0_usize..500, to: u8, cut in 0_usize..600) {
            let mut bytes = image(&[b".osrel\0\0", b".cmdline"]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(cut);
            if let Ok(span) = Span::of_cmdline(&bytes) {
                prop_assert!(span.bytes <= SignedCmdline::MAX_BYTES);
            }
        }
    }
}
