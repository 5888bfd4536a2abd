//! Boot entries and their counters, by the rules of systemd-boot's automatic boot assessment.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Slot;

/// A boot entry's file name: `mbl-GENERATION-SLOT.efi`, or with a counter `mbl-GENERATION-SLOT+LEFT[-DONE].efi`.
///
/// The entry with the highest generation that has tries left, or no counter, is booted. The loader moves one try from LEFT to
/// DONE before it starts an entry that has a counter; a confirmed entry loses its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootEntry {
    /// Rises by one with each installed release, so that the newest entry is tried first.
    pub generation: u32,
    /// The slot that the entry boots.
    pub slot: Slot,
    /// Tries left and tries done; none once the entry was confirmed.
    pub tries: Option<Tries>,
}

/// The counter of an entry on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tries {
    /// Boots that may still be tried.
    pub left: u8,
    /// Boots that were tried.
    pub done: u8,
}

impl Tries {
    /// Of a confirmed entry that gave way to the other slot's, since it did not come up (`docs/formats/boot.md`). No entry on trial has
    /// had so many.
    pub const GAVE_WAY: Self = Self { left: 0, done: 5 };
}

impl BootEntry {
    /// Reads a file name; `None` if it is not a boot entry of ours.
    pub fn parse(file_name: &str) -> Option<Self> {
        let rest = file_name.strip_prefix("mbl-")?.strip_suffix(".efi")?;
        let (rest, tries) = match rest.split_once('+') {
            None => (rest, None),
            Some((rest, counter)) => {
                let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
                (rest, Some(Tries { left: number(left)?, done: number(done)? }))
            }
        };
        let (generation, slot) = rest.split_once('-')?;
        let slot = match slot {
            "a" => Slot::A,
            "b" => Slot::B,
            _ => return None,
        };
        Some(Self { generation: number(generation)?, slot, tries })
    }

    /// Whether the loader may still choose it.
    pub const fn is_bootable(&self) -> bool {
        !matches!(self.tries, Some(Tries { left: 0, .. }))
    }

    /// Whether it was confirmed, and then did not come up.
    pub fn gave_way(&self) -> bool {
        self.tries == Some(Tries::GAVE_WAY)
    }

    /// The entry that the loader would boot among `entries`.
    pub fn choose(entries: impl IntoIterator<Item = Self>) -> Option<Self> {
        entries.into_iter().filter(Self::is_bootable).max_by_key(|entry| entry.generation)
    }

    /// The name that the loader gives the entry before it starts it.
    #[must_use]
    pub const fn after_try(self) -> Self {
        match self.tries {
            None => self,
            Some(Tries { left, done }) => {
                Self { tries: Some(Tries { left: left.saturating_sub(1), done: done.saturating_add(1) }), ..self }
            }
        }
    }

    /// The entry without its counter: it proved itself.
    #[must_use]
    pub const fn confirmed(self) -> Self {
        Self { tries: None, ..self }
    }
}

impl TryFrom<String> for BootEntry {
    type Error = &'static str;
    fn try_from(file_name: String) -> Result<Self, &'static str> {
        Self::parse(&file_name).ok_or("not the file name of a boot entry")
    }
}

impl From<BootEntry> for String {
    fn from(entry: BootEntry) -> Self {
        entry.to_string()
    }
}

/// Digits only: `parse` alone would accept a sign.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl fmt::Display for BootEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mbl-{}-{}", self.generation, self.slot)?;
        match self.tries {
            None => {}
            Some(Tries { left, done: 0 }) => write!(f, "+{left}")?,
            Some(Tries { left, done }) => write!(f, "+{left}-{done}")?,
        }
        f.write_str(".efi")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_reads_back_as_itself(generation: u32, b: bool, tries: Option<(u8, u8)>) {
            let entry = BootEntry {
                generation,
                slot: if b { Slot::B } else { Slot::A },
                tries: tries.map(|(left, done)| Tries { left, done }),
            };
            prop_assert_eq!(BootEntry::parse(&entry.to_string()), Some(entry));
        }

        #[test]
        fn any_file_name_is_read_without_panic(name: String) {
            if let Some(entry) = BootEntry::parse(&name) {
                prop_assert_eq!(BootEntry::parse(&entry.to_string()), Some(entry));
            }
        }
    }

    #[test]
    fn an_exhausted_entry_is_passed_over_for_the_older_one() {
        let entries = ["mbl-4-b+0-3.efi", "mbl-3-a.efi"].map(|name| BootEntry::parse(name).unwrap());
        assert_eq!(BootEntry::choose(entries), Some(entries[1]));
    }
}
