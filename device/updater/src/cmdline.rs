//! The command line of the booted entry, as the loader of the board `host` leaves it in `run/cmdline`. Never touches a disk.

use std::{collections::BTreeMap, fmt};

use protocol_release::document::HostUki;
use protocol_types::{Digest, boot::BootEntry};

/// What was booted. The loader has verified the slot against `root`, so this is the system's own word and not a note about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// Root digest of the booted system: `mbl.root`.
    pub root: Digest,
    /// Length of its root section in bytes: `mbl.size`.
    pub size: u64,
    /// The entry as it was when it was started: `mbl.entry`. Its slot is `mbl.slot`.
    pub entry: BootEntry,
    /// Fields of os-release inside of the verified entry.
    pub os_release: BTreeMap<String, String>,
}

/// A text that is not a command line of this board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("command line of the booted entry: {0}")]
pub struct CmdlineError(&'static str);

impl Cmdline {
    /// Upper bound for the text in bytes.
    pub const MAX_BYTES: usize = HostUki::MAX_BYTES + 512;

    /// The command line with which `entry` boots.
    pub fn of(entry: BootEntry, uki: HostUki) -> Self {
        Self { root: uki.root, size: uki.size, entry, os_release: uki.os_release }
    }

    /// The version of the booted operating system; empty if it does not say.
    pub fn os_version(&self) -> &str {
        self.os_release.get("VERSION_ID").map_or("", String::as_str)
    }

    /// Reads what the loader wrote.
    ///
    /// # Errors
    /// If a parameter is missing, stands twice or is malformed, or the slot is not the entry's.
    pub fn parse(bytes: &[u8]) -> Result<Self, CmdlineError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(CmdlineError("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| CmdlineError("it is not UTF-8"))?;
        let mut lines = text.lines();
        let mut words = BTreeMap::new();
        for word in lines.next().unwrap_or_default().split_whitespace() {
            let (key, value) = word.split_once('=').ok_or(CmdlineError("a parameter has no value"))?;
            if words.insert(key, value).is_some() {
                return Err(CmdlineError("a parameter stands twice"));
            }
        }
        let word = |key| words.get(key).copied();
        let root = word("mbl.root").and_then(|v| v.parse().ok()).ok_or(CmdlineError("`mbl.root` is no digest"))?;
        let size = word("mbl.size").and_then(|v| v.parse().ok()).ok_or(CmdlineError("`mbl.size` is no number"))?;
        let entry = word("mbl.entry").and_then(BootEntry::parse).ok_or(CmdlineError("`mbl.entry` is no boot entry"))?;
        if word("mbl.slot") != Some(entry.slot.letter().encode_utf8(&mut [0; 4])) {
            return Err(CmdlineError("`mbl.slot` is not the slot of the entry"));
        }
        let mut os_release = BTreeMap::new();
        for line in lines {
            let field = line.strip_prefix("osrel: ").and_then(|field| field.split_once('='));
            let (key, value) = field.ok_or(CmdlineError("a line is no `osrel: KEY=VALUE`"))?;
            os_release.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self { root, size, entry, os_release })
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, size, entry, os_release } = self;
        writeln!(f, "mbl.root={root} mbl.size={size} mbl.slot={} mbl.entry={entry}", entry.slot)?;
        os_release.iter().try_for_each(|(key, value)| writeln!(f, "osrel: {key}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Cmdline {
        let entry = BootEntry::parse("mbl-2-b+2-1.efi").unwrap();
        let os_release = [("ID".to_owned(), "mbl".to_owned()), ("VERSION_ID".to_owned(), "1.1.0".to_owned())].into();
        Cmdline { root: Digest::of(b"root"), size: 41_943_040, entry, os_release }
    }

    #[test]
    fn a_command_line_reads_back_as_itself() {
        let text = example().to_string();
        assert_eq!(Cmdline::parse(text.as_bytes()), Ok(example()));
        assert_eq!(example().os_version(), "1.1.0");
    }

    #[test]
    fn a_command_line_that_contradicts_itself_is_refused() {
        let text = example().to_string();
        for (from, to) in [
            ("mbl.slot=b", "mbl.slot=a"),
            ("mbl.slot=b", "mbl.slot=b mbl.slot=b"),
            ("mbl.root=sha256:", "mbl.root=sha256:0"),
            ("mbl.entry=mbl-2-b+2-1.efi", "mbl.entry=../x"),
            ("mbl.size=41943040", "mbl.size=-1"),
            ("osrel: ", "init=/bin/sh "),
        ] {
            assert!(Cmdline::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Ok(cmdline) = Cmdline::parse(&bytes) {
                prop_assert_eq!(Cmdline::parse(cmdline.to_string().as_bytes()), Ok(cmdline));
            }
        }
    }
}
