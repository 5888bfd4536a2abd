//! A reader of FAT32 by the words of Microsoft's specification ("FAT: General Overview of On-Disk Format", 1.03), as the firmware
//! reads it: long names count only with the checksum of the short one. It shares nothing with the library that the updater writes
//! with, and never writes.

use super::sectors::{SECTOR, Sector};

/// Bytes of a name in a folder.
pub(super) const NAME: usize = 32;
/// Attributes of a name.
pub(super) const FOLDER: u8 = 0x10;
const LABEL: u8 = 0x08;
const LONG: u8 = 0x0f;
/// Places of the characters in a part of a long name.
pub(super) const CHARACTERS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// The first byte of a removed name.
pub(super) const REMOVED: u8 = 0xe5;
/// From here on an entry of the table leads nowhere.
const BAD: u32 = 0x0fff_fff7;

/// A volume that cannot be read as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) &'static str);

/// Whatever has sectors.
pub(super) trait Sectors {
    fn sector(&self, number: usize) -> Option<&Sector>;
}

impl Sectors for [Sector] {
    fn sector(&self, number: usize) -> Option<&Sector> {
        self.get(number)
    }
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) short: [u8; NAME],
    /// Where it stands in the folder, in names, with the parts of its long form.
    pub(super) places: std::ops::Range<usize>,
    pub(super) cluster: u32,
    pub(super) bytes: usize,
}

impl Name {
    pub(super) fn is_folder(&self) -> bool {
        self.short[11] & FOLDER != 0
    }
}

/// A folder: where its sectors are, and its names.
#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    pub(super) sectors: Vec<usize>,
    pub(super) names: Vec<Name>,
    /// The place behind the last name, removed ones included.
    pub(super) end: usize,
}

/// A volume.
#[derive(Debug)]
pub(super) struct Volume<'a, S: ?Sized> {
    sectors: &'a S,
    cluster_sectors: usize,
    table: usize,
    data: usize,
    clusters: u32,
    topmost: u32,
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    half(bytes, at) | half(bytes, at + 2) << 16
}

fn number(value: u32) -> usize {
    value as usize
}

impl<'a, S: Sectors + ?Sized> Volume<'a, S> {
    pub(super) fn open(sectors: &'a S) -> Result<Self, Damage> {
        let boot = sectors.sector(0).ok_or(Damage("the volume has no first sector"))?;
        let cluster_sectors = usize::from(boot[13]);
        if half(boot, 510) != 0xaa55 || half(boot, 11) != 512 || cluster_sectors == 0 {
            return Err(Damage("the first sector does not describe a volume"));
        }
        let (table, table_sectors) = (number(half(boot, 14)), number(word(boot, 36)));
        let data = table + usize::from(boot[16]) * table_sectors;
        let clusters = number(word(boot, 32)).saturating_sub(data) / cluster_sectors;
        let clusters = u32::try_from(clusters).map_err(|_| Damage("too many clusters"))?;
        Ok(Self { sectors, cluster_sectors, table, data, clusters, topmost: word(boot, 44) })
    }

    fn sector(&self, number: usize) -> Result<&'a Sector, Damage> {
        self.sectors.sector(number).ok_or(Damage("a chain leads out of the volume"))
    }

    /// The sectors of the chain that begins at a cluster.
    pub(super) fn chain(&self, first: u32) -> Result<Vec<usize>, Damage> {
        let (mut found, mut next, mut clusters) = (Vec::new(), first, 0);
        while next < BAD {
            if !(2..self.clusters + 2).contains(&next) || clusters > self.clusters {
                return Err(Damage("a chain of clusters leads nowhere or in circles"));
            }
            clusters += 1;
            let at = self.data + number(next - 2) * self.cluster_sectors;
            found.extend(at..at + self.cluster_sectors);
            let table = self.sector(self.table + number(next) / 128)?;
            next = word(table, number(next) % 128 * 4) & 0x0fff_ffff;
        }
        if next == BAD { Err(Damage("a chain of clusters ends in a bad one")) } else { Ok(found) }
    }

    fn read_folder(&self, first: u32) -> Result<Folder, Damage> {
        let sectors = self.chain(first)?;
        let (mut folder, mut long, mut place) = (Folder::default(), Vec::new(), 0);
        'names: for sector in &sectors {
            for name in self.sector(*sector)?.as_chunks::<NAME>().0 {
                match name[0] {
                    0 => break 'names,
                    REMOVED => long.clear(),
                    _ if name[11] & 0x3f == LONG => long.push(*name),
                    _ if name[11] & LABEL != 0 => long.clear(),
                    _ => {
                        let (text, parts) = text_of(name, &long);
                        let cluster = half(name, 20) << 16 | half(name, 26);
                        let (places, bytes) = (place - parts..place + 1, number(word(name, 28)));
                        folder.names.push(Name { text, short: *name, places, cluster, bytes });
                        long.clear();
                    }
                }
                place += 1;
            }
        }
        Ok(Folder { sectors, end: place, ..folder })
    }

    /// The folder at `path`, and those above it with the name that leads down.
    pub(super) fn folder(&self, path: &[&str]) -> Result<(Folder, Vec<(Folder, Name)>), Damage> {
        let (mut above, mut folder) = (Vec::new(), self.read_folder(self.topmost)?);
        for step in path {
            let found = folder.names.iter().find(|name| name.is_folder() && name.text.eq_ignore_ascii_case(step));
            let name = found.cloned().ok_or(Damage("a folder is missing"))?;
            let below = self.read_folder(name.cluster)?;
            above.push((folder, name));
            folder = below;
        }
        Ok((folder, above))
    }
}

/// The text of a name, and of how many parts its long form consists; none if they do not belong to it.
fn text_of(short: &[u8; NAME], long: &[[u8; NAME]]) -> (String, usize) {
    let checksum = checksum(short);
    let belongs = |(left, part): (usize, &[u8; NAME])| {
        let last = if left == long.len() { 0x40 } else { 0 };
        usize::from(part[0]) == left | last && part[13] == checksum
    };
    if !long.is_empty() && (1..=long.len()).rev().zip(long).all(belongs) {
        let units =
            long.iter().rev().flat_map(|part| CHARACTERS.map(|at| u16::from_le_bytes([part[at], part[at + 1]])));
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        return (String::from_utf16_lossy(&units), long.len());
    }
    let piece = |bytes: &[u8], lower: bool| {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if lower { text.to_ascii_lowercase() } else { text }
    };
    let (base, extension) = (piece(&short[..8], short[12] & 8 != 0), piece(&short[8..11], short[12] & 16 != 0));
    (if extension.is_empty() { base } else { format!("{base}.{extension}") }, 0)
}

/// The checksum of a short name, which each part of its long form repeats.
pub(super) fn checksum(short: &[u8]) -> u8 {
    short.iter().take(11).fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The sectors of bytes that are a volume.
pub(super) fn sectors_of(bytes: &[u8]) -> &[Sector] {
    bytes.as_chunks::<SECTOR>().0
}

/// A sector with no time in the names of a folder, if it is one of a folder.
pub(super) fn without_times(sector: &Sector) -> Sector {
    let mut timeless = *sector;
    for name in timeless.as_chunks_mut::<NAME>().0.iter_mut().filter(|name| name[11] & 0x3f != LONG) {
        name[13..20].fill(0);
        name[22..26].fill(0);
    }
    timeless
}
