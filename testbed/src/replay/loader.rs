//! What systemd-boot 257 does with unified kernel images, and what edk2's FAT driver writes when it is asked for a new name. Written
//! from their documentation and sources, not from our own code; `os_the_loader_…` compares it with both under QEMU.

use std::cmp::Ordering;

use super::{
    fat::{CHARACTERS, Damage, Folder, NAME, Name, REMOVED, Sectors, Volume, checksum},
    sectors::{SECTOR, Sector},
};

/// Where the loader looks for unified kernel images.
const PATH: [&str; 2] = ["EFI", "Linux"];
const SUFFIX: &str = ".efi";

/// An entry of the loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Name,
    /// The name without its counter.
    id: String,
    /// Tries left and done; none without a counter.
    pub(super) tries: Option<(u64, u64)>,
}

impl Entry {
    fn of(name: &Name) -> Option<Self> {
        let text = name.text.to_ascii_lowercase();
        if name.is_folder() || text.starts_with('.') || text.starts_with("auto-") || !text.ends_with(SUFFIX) {
            return None;
        }
        let stem = text.strip_suffix(SUFFIX)?;
        let counted = stem.rsplit_once('+').and_then(|(base, counter)| {
            let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
            let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
            Some((base, (number(left)?, number(done)?)))
        });
        let (base, tries) = counted.map_or((stem, None), |(base, tries)| (base, Some(tries)));
        Some(Self { name: name.clone(), id: format!("{base}{SUFFIX}"), tries })
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.tries.is_some_and(|(left, _)| left == 0)
    }

    /// What it is called once it was chosen.
    pub(super) fn next_name(&self) -> Option<String> {
        let (left, done) = self.tries?;
        let base = self.id.strip_suffix(SUFFIX)?;
        Some(format!("{base}+{}-{}{SUFFIX}", left.saturating_sub(1), done + 1))
    }
}

/// The entries in the loader's order. All our images have one sort key and no version, so names decide
/// (systemd, `src/boot/boot.c`, `boot_entry_compare`; documented as "Sorting" of the Boot Loader Specification).
pub(super) fn entries(folder: &Folder) -> Vec<Entry> {
    let mut entries: Vec<Entry> = folder.names.iter().filter_map(Entry::of).collect();
    entries.sort_by(|a, b| {
        let by_tries = || match (a.tries, b.tries) {
            (Some((a_left, a_done)), Some((b_left, b_done))) => b_left.cmp(&a_left).then(a_done.cmp(&b_done)),
            _ => Ordering::Equal,
        };
        let by_name = || compare_versions(&b.id, &a.id);
        a.is_exhausted().cmp(&b.is_exhausted()).then_with(by_name).then_with(by_tries)
    });
    entries
}

/// The order of names with numbers in them (UAPI group, "Version Format Specification").
fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    let counts = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    loop {
        for text in [&mut a, &mut b] {
            *text = &text[text.iter().take_while(|byte| !counts(byte)).count()..];
        }
        for mark in *b"~-^." {
            if mark != b'~' && (a.is_empty() || b.is_empty()) {
                return a.len().cmp(&b.len());
            }
            match (a.strip_prefix(&[mark]), b.strip_prefix(&[mark])) {
                (Some(rest_a), Some(rest_b)) => (a, b) = (rest_a, rest_b),
                (Some(_), None) => return Ordering::Less,
                (None, Some(_)) => return Ordering::Greater,
                (None, None) => {}
            }
        }
        // A number is newer than a word, which is then compared as an empty one.
        let numbers = [a, b].iter().any(|text| text.first().is_some_and(u8::is_ascii_digit));
        let belongs = |byte: &&u8| if numbers { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
        let split = |text: &mut &[u8]| {
            let (head, tail) = text.split_at(text.iter().take_while(belongs).count());
            *text = tail;
            if numbers { head.iter().skip_while(|digit| **digit == b'0').copied().collect() } else { head.to_vec() }
        };
        let (head_a, head_b): (Vec<u8>, Vec<u8>) = (split(&mut a), split(&mut b));
        let by_length = if numbers { head_a.len().cmp(&head_b.len()) } else { Ordering::Equal };
        let order = by_length.then_with(|| head_a.cmp(&head_b));
        if order != Ordering::Equal || (a.is_empty() && b.is_empty()) {
            return order;
        }
    }
}

/// The folder of entries of a volume.
pub(super) fn folder<S: Sectors + ?Sized>(sectors: &S) -> Result<Folder, Damage> {
    Ok(Volume::open(sectors)?.folder(&PATH)?.0)
}

/// The sectors that the firmware writes, in any order and with one flush behind them, when the loader gives an entry its next name:
/// the old name is removed, the new one put behind all others, and the folders above note that they were used.
pub(super) fn count_try<S: Sectors + ?Sized>(sectors: &S, entry: &Entry) -> Result<Vec<(usize, Sector)>, Damage> {
    let Some(next) = entry.next_name() else { return Ok(Vec::new()) };
    let (folder, above) = Volume::open(sectors)?.folder(&PATH)?;
    let mut writes = Writes { sectors, changed: Vec::new() };
    for (folder, name) in above {
        let place = name.places.end - 1;
        let mut noted = name.short;
        // It counts as changed, and was changed now: any time does.
        noted[11] |= 0x20;
        writes.put(&folder, place, noted)?;
    }
    let mut gone = entry.name.short;
    gone[0] = REMOVED;
    for place in entry.name.places.clone() {
        let mut name = writes.get(&folder, place)?;
        name[0] = REMOVED;
        if place + 1 < entry.name.places.end {
            name[13] = checksum(&gone);
        }
        writes.put(&folder, place, name)?;
    }
    let short = short_name(&next, &folder, entry, &entry.name.short);
    for (place, name) in (folder.end..).zip(parts(&next, &short)) {
        writes.put(&folder, place, name)?;
    }
    Ok(writes.changed)
}

/// Changes on top of a volume.
struct Writes<'a, S: ?Sized> {
    sectors: &'a S,
    changed: Vec<(usize, Sector)>,
}

impl<S: Sectors + ?Sized> Writes<'_, S> {
    fn sector(&self, folder: &Folder, place: usize) -> Result<(usize, Sector), Damage> {
        let crowded = Damage("the loader's new name does not fit into the sectors of its folder");
        let number = *folder.sectors.get(place * NAME / SECTOR).ok_or(crowded)?;
        if let Some(changed) = self.changed.iter().find(|(changed, _)| *changed == number) {
            return Ok(*changed);
        }
        Ok((number, *self.sectors.sector(number).ok_or(Damage("a folder leads out of the volume"))?))
    }

    fn get(&self, folder: &Folder, place: usize) -> Result<[u8; NAME], Damage> {
        let (_, sector) = self.sector(folder, place)?;
        Ok(sector.as_chunks::<NAME>().0[place % (SECTOR / NAME)])
    }

    fn put(&mut self, folder: &Folder, place: usize, name: [u8; NAME]) -> Result<(), Damage> {
        let (number, mut sector) = self.sector(folder, place)?;
        sector.as_chunks_mut::<NAME>().0[place % (SECTOR / NAME)] = name;
        self.changed.retain(|(changed, _)| *changed != number);
        self.changed.push((number, sector));
        Ok(())
    }
}

/// A short form of a name that has none of its own: its first six characters and the first number that is free.
fn short_name(name: &str, folder: &Folder, old: &Entry, like: &[u8; NAME]) -> [u8; NAME] {
    let base = name.bytes().filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'-').take(6);
    let base: Vec<u8> = base.map(|byte| byte.to_ascii_uppercase()).collect();
    let mut short = *like;
    // The attributes, times, cluster and length stay; the flags of case belong to the name.
    short[..12].copy_from_slice(b"           \0");
    short[11] = like[11];
    short[12] = 0;
    short[..base.len()].copy_from_slice(&base);
    short[8..11].copy_from_slice(b"EFI");
    short[6] = b'~';
    let taken = |short: &[u8; NAME]| {
        folder.names.iter().any(|name| name.places != old.name.places && name.short[..11] == short[..11])
    };
    short[7] = (b'1'..=b'9').find(|digit| !taken(&with_digit(short, *digit))).unwrap_or(b'9');
    short
}

fn with_digit(mut short: [u8; NAME], digit: u8) -> [u8; NAME] {
    short[7] = digit;
    short
}

/// A name as it stands in a folder: the parts of its long form, the last one first, and the short one.
fn parts(name: &str, short: &[u8; NAME]) -> Vec<[u8; NAME]> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let pieces: Vec<(u8, &[u16])> = (1..).zip(units.chunks(CHARACTERS.len())).collect();
    let mut parts = Vec::new();
    for (number, piece) in pieces.iter().rev().copied() {
        let mut part = [0xff; NAME];
        part[0] = if usize::from(number) == pieces.len() { number | 0x40 } else { number };
        (part[11], part[12], part[13]) = (0x0f, 0, checksum(short));
        (part[26], part[27]) = (0, 0);
        let ended = piece.iter().copied().chain([0]);
        for (at, unit) in CHARACTERS.into_iter().zip(ended) {
            part[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        parts.push(part);
    }
    parts.push(*short);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(texts: &[&str]) -> Vec<String> {
        let name =
            |text: &&str| Name { text: (*text).to_owned(), short: [0; NAME], places: 0..1, cluster: 2, bytes: 1 };
        let folder = Folder { names: texts.iter().map(name).collect(), ..Folder::default() };
        entries(&folder).into_iter().map(|entry| entry.name.text).collect()
    }

    #[test]
    fn the_newest_entry_with_tries_left_is_first_and_exhausted_ones_are_last() {
        assert_eq!(named(&["mbl-9-a.efi", "mbl-10-b+3.efi"]), ["mbl-10-b+3.efi", "mbl-9-a.efi"]);
        assert_eq!(named(&["mbl-10-b+0-3.efi", "mbl-9-a.efi"]), ["mbl-9-a.efi", "mbl-10-b+0-3.efi"]);
        assert_eq!(named(&["mbl-2-b+1-2.efi", "mbl-2-b+3.efi"]), ["mbl-2-b+3.efi", "mbl-2-b+1-2.efi"]);
        assert_eq!(named(&["mbl-staged.tmp", "auto-x.efi", ".x.efi"]), Vec::<String>::new());
        assert_eq!(named(&["mbl-1-a.efi", "MBL-2-~1.EFI"]), ["MBL-2-~1.EFI", "mbl-1-a.efi"]);
        assert_eq!(named(&["mbl-2-b+3x.efi"]), ["mbl-2-b+3x.efi"], "no counter, but a name all the same");
    }
}
