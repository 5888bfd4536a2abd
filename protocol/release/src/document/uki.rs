//! Where the signed command lines stand in a unified kernel image: that of the system, and those of the further profiles that the
//! loader's menu offers (UAPI.5 Unified Kernel Image, "Multi-Profile UKIs"). Never reads more of the image than its head, and never says
//! whether its signature is right: that is the firmware's word.

use protocol_types::signed_cmdline::SignedCmdline;

use super::DocumentError;

const KIND: &str = "unified kernel image";
/// The name of the section, padded as the table of sections has it.
const CMDLINE: [u8; 8] = *b".cmdline";
/// Begins a profile, which takes over the sections before the first of these.
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

    /// Finds the command line of the system in an image that begins with `head`, by "PE Format", sections "Signature", "COFF File
    /// Header" and "Section Table".
    ///
    /// # Errors
    /// If it is no PE file, or has no command line before its profiles, more than one, or one that is longer than any of ours.
    pub fn of_cmdline(head: &[u8]) -> Result<Self, DocumentError> {
        let mut found = table(head)?.take_while(|section| !is(section, PROFILE)).filter(|section| is(section, CMDLINE));
        match (found.next(), found.next()) {
            (Some(section), None) => Self::of_section(section),
            (None, _) => Err(broken("it must have a section `.cmdline` before its profiles")),
            (Some(_), Some(_)) => Err(broken("it must not have two sections `.cmdline` before its profiles")),
        }
    }

    /// Finds the command lines of the profiles behind the first one, each of which has one of its own; there are none in an image
    /// without profiles.
    ///
    /// # Errors
    /// As [`Span::of_cmdline`], or if a profile has none or the first one has one of its own.
    pub fn of_profiles(head: &[u8]) -> Result<Vec<Self>, DocumentError> {
        let sections: Vec<_> = table(head)?.skip_while(|section| !is(section, PROFILE)).collect();
        let mut profiles = sections.split(|section| is(section, PROFILE)).skip(1);
        if profiles.next().is_some_and(|first| first.iter().any(|section| is(section, CMDLINE))) {
            return Err(broken("its first profile must have the command line of the system"));
        }
        let line_of = |profile: &[&[u8]]| {
            let mut found = profile.iter().filter(|section| is(section, CMDLINE));
            match (found.next(), found.next()) {
                (Some(section), None) => Self::of_section(section),
                (None, _) | (Some(_), Some(_)) => Err(broken("each further profile must have one section `.cmdline`")),
            }
        };
        profiles.map(line_of).collect()
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
    fn each_profile_behind_the_first_has_a_command_line_of_its_own() {
        let (text, profile): (&[u8; 8], &[u8; 8]) = (b".cmdline", b".profile");
        let whole = image(&[text, b".linux\0\0", profile, b".pcrsig\0", profile, text, b".pcrsig\0"]);
        assert_eq!(Span::of_cmdline(&whole).unwrap().start, 0x400);
        assert_eq!(Span::of_profiles(&whole).unwrap(), [Span { start: 0x400 + 512 * 5, bytes: 20 }]);
        assert_eq!(Span::of_profiles(&image(&[text, b".linux\0\0"])).unwrap(), []);
        for hidden in [&[text, profile, text][..], &[text, profile, profile], &[text, profile, profile, text, text]] {
            assert!(Span::of_profiles(&image(hidden)).is_err(), "{hidden:?}");
        }
        assert!(Span::of_cmdline(&image(&[profile, text])).is_err(), "a system without a line of its own");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            drop(Span::of_cmdline(&bytes));
            drop(Span::of_profiles(&bytes));
        }

        #[test]
        fn any_change_of_a_good_head_gives_a_bounded_span_or_none(at in 0_usize..500, to: u8, cut in 0_usize..600) {
            let mut bytes = image(&[b".osrel\0\0", b".cmdline"]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(cut);
            let further = Span::of_profiles(&bytes).unwrap_or_default();
            for span in Span::of_cmdline(&bytes).into_iter().chain(further) {
                prop_assert!(span.bytes <= SignedCmdline::MAX_BYTES);
            }
        }
    }
}
