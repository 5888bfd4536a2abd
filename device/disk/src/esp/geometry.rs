//! Where the parts of a FAT32 volume lie. Never touches a disk, and never looks into a file or a folder.

use std::ops::Range;

/// Bytes in a sector: the unit that a medium writes whole or not at all.
pub const SECTOR: usize = 512;
/// One sector.
pub type Sector = [u8; SECTOR];
/// A volume with fewer clusters is FAT16, whatever it says.
const LEAST_CLUSTERS: u64 = 65_525;
/// Entries of the table in a sector.
pub(super) const ENTRIES: u64 = 128;

/// What an entry of the table is when its cluster is free.
pub(super) const FREE: u32 = 0;
/// From here on an entry of the table leads nowhere: a bad cluster, or the end of a chain.
pub(super) const BAD: u32 = 0x0fff_fff7;
/// The end of a chain, as we write it.
pub(super) const END: u32 = 0x0fff_ffff;
/// Bytes of an entry in a folder.
pub(super) const NAME: usize = 32;
/// The first byte of an entry that was removed from a folder.
pub(super) const REMOVED: u8 = 0xe5;
/// The attributes of a part of a long name.
const LONG: u8 = 0x0f;

/// The layout of a volume, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Both copies of the table.
    table: Range<u64>,
    table_sectors: u64,
    cluster_sectors: u64,
    clusters: u64,
    info: u64,
    topmost: u32,
}

/// Bytes that are not the first sector of a volume of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a FAT32 volume of this system: {0}")]
pub struct GeometryError(&'static str);

/// What a sector is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The note about how many clusters are free, which nobody needs to believe.
    Info,
    /// What describes the volume.
    Description,
    /// A copy of the table.
    Table,
    /// Files and folders.
    Data,
}

impl Geometry {
    /// Reads the first sector of a volume on a medium of `medium` bytes, by "FAT: General Overview of On-Disk Format", section
    /// "Boot Sector and BPB".
    ///
    /// # Errors
    /// If it is no FAT32 with sectors of 512 bytes, or reaches beyond the medium.
    pub fn parse(boot: &Sector, medium: u64) -> Result<Self, GeometryError> {
        let byte = |at: usize| boot.get(at).copied().map(u64::from).unwrap_or_default();
        let half = |at: usize| byte(at) | byte(at + 1) << 8;
        let word = |at: usize| half(at) | half(at + 2) << 16;
        let (cluster_sectors, reserved, copies, table_sectors) = (byte(13), half(14), byte(16), word(36));
        let (total, info) = (word(32), half(48));
        if half(510) != 0xaa55 || half(11) != 512 {
            return Err(GeometryError("no boot sector, or other sectors than of 512 bytes"));
        }
        if !cluster_sectors.is_power_of_two() || reserved < 2 || !(1..=2).contains(&copies) || table_sectors == 0 {
            return Err(GeometryError("impossible numbers"));
        }
        if half(17) != 0 || half(22) != 0 || half(19) != 0 {
            return Err(GeometryError("FAT12 or FAT16"));
        }
        if half(40) & 0x80 != 0 {
            return Err(GeometryError("only one copy of the table is in use"));
        }
        if info == 0 || info >= reserved {
            return Err(GeometryError("no sector for the free clusters"));
        }
        let data = reserved + copies * table_sectors;
        let clusters = total.saturating_sub(data) / cluster_sectors;
        if clusters < LEAST_CLUSTERS || table_sectors * ENTRIES < clusters + 2 {
            return Err(GeometryError("a number of clusters that does not fit"));
        }
        let topmost = u32::try_from(word(44)).ok().filter(|cluster| (2..clusters + 2).contains(&u64::from(*cluster)));
        let topmost = topmost.ok_or(GeometryError("its first folder is nowhere"))?;
        if total * SECTOR as u64 > medium {
            return Err(GeometryError("longer than its partition"));
        }
        Ok(Self { table: reserved..data, table_sectors, cluster_sectors, clusters, info, topmost })
    }

    pub(super) fn purpose(&self, sector: u64) -> Purpose {
        if sector == self.info {
            Purpose::Info
        } else if sector < self.table.start {
            Purpose::Description
        } else if self.table.contains(&sector) {
            Purpose::Table
        } else {
            Purpose::Data
        }
    }

    /// Whether every entry that is not free leads somewhere, in a sector of the table or of a folder. The library takes them for
    /// good, and would compute places that are none.
    pub(super) fn leads_somewhere(&self, sector: u64, bytes: &Sector) -> bool {
        match self.purpose(sector) {
            Purpose::Info | Purpose::Description => true,
            Purpose::Table => {
                let first = (sector - self.table.start) % self.table_sectors * ENTRIES;
                // The first two entries hold marks of the whole volume.
                let numbers = (first.max(2)..(first + ENTRIES).min(self.clusters + 2)).map(|number| number - first);
                numbers.filter_map(|number| usize::try_from(number).ok()).all(|number| {
                    let entry = entry(bytes, number);
                    entry == FREE || entry >= BAD || self.is_cluster(entry)
                })
            }
            Purpose::Data => {
                let (names, _) = bytes.as_chunks::<NAME>();
                let names = names.iter().take_while(|name| name.first() != Some(&0));
                let half = |name: &[u8; NAME], at: usize| {
                    name.get(at..)
                        .and_then(|rest| rest.first_chunk())
                        .map_or(0, |bytes| u32::from(u16::from_le_bytes(*bytes)))
                };
                names.filter(|name| name.first() != Some(&REMOVED) && name.get(11) != Some(&LONG)).all(|name| {
                    let cluster = half(name, 20) << 16 | half(name, 26);
                    cluster == 0 || self.is_cluster(cluster)
                })
            }
        }
    }

    /// Whether there is a cluster with this number.
    pub(super) fn is_cluster(&self, number: u32) -> bool {
        (2..self.clusters + 2).contains(&u64::from(number))
    }

    /// How many clusters there are; their numbers begin at 2.
    pub(super) fn clusters(&self) -> usize {
        usize::try_from(self.clusters).unwrap_or(usize::MAX)
    }

    /// The first cluster of the topmost folder.
    pub(super) const fn topmost(&self) -> u32 {
        self.topmost
    }

    /// The sector with the note of how many clusters are free.
    pub(super) const fn info(&self) -> u64 {
        self.info
    }

    /// The sectors of a cluster.
    pub(super) const fn sectors_of(&self, cluster: u32) -> Range<u64> {
        let first = self.table.end + (cluster as u64).saturating_sub(2) * self.cluster_sectors;
        first..first + self.cluster_sectors
    }

    /// Where the first copy of the table has the entry of a cluster: its sector, and its number in there.
    pub(super) fn entry_for(&self, cluster: u32) -> (u64, usize) {
        self.entry_of(self.sectors_of(cluster).start)
    }

    /// The cluster of entry `number` in a sector of the first copy of the table.
    pub(super) fn cluster_of(&self, sector: u64, number: usize) -> u32 {
        let first = sector.saturating_sub(self.table.start) * ENTRIES;
        u32::try_from(first).unwrap_or(0) + u32::try_from(number).unwrap_or(0)
    }

    /// A sector of the first copy of the table, and its like in the other copies.
    pub(super) fn copies(&self, sector: u64) -> impl Iterator<Item = u64> {
        let (end, step) = (self.table.end, self.table_sectors);
        std::iter::successors(Some(sector), move |copy| Some(copy + step)).take_while(move |copy| *copy < end)
    }

    /// Whether this byte is one of files and folders.
    pub(super) const fn is_data(&self, byte: u64) -> bool {
        byte >= self.table.end * SECTOR as u64
    }

    /// Bytes in a cluster.
    pub(super) const fn cluster_bytes(&self) -> u64 {
        self.cluster_sectors * SECTOR as u64
    }

    /// Where the first copy of the table has the entry of the cluster to which a sector of files and folders belongs: its sector,
    /// and its number in there.
    pub(super) fn entry_of(&self, sector: u64) -> (u64, usize) {
        let entry = sector.saturating_sub(self.table.end) / self.cluster_sectors + 2;
        (self.table.start + entry / ENTRIES, usize::try_from(entry % ENTRIES).unwrap_or(0))
    }

    /// The sectors of the first copy of the table, each with the numbers of those of its entries that stand for a cluster.
    pub(super) fn table_entries(&self) -> impl Iterator<Item = (u64, Range<usize>)> {
        let end = self.clusters + 2;
        (0..self.table_sectors).map_while(move |sector| {
            let (first, last) = (sector * ENTRIES, (sector + 1) * ENTRIES);
            let number = |entry: u64| usize::try_from(entry.clamp(first, last) - first).unwrap_or(0);
            (first < end).then(|| (self.table.start + sector, number(2)..number(end)))
        })
    }
}

/// Entry `number` of a sector of the table; the upper four bits are not part of it.
pub(super) fn entry(sector: &Sector, number: usize) -> u32 {
    let bytes = sector.get(number * 4..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) & 0x0fff_ffff)
}

/// Changes entry `number` of a sector of the table.
pub(super) fn set_entry(sector: &mut Sector, number: usize, value: u32) {
    if let Some(bytes) = sector.get_mut(number * 4..).and_then(|rest| rest.first_chunk_mut()) {
        let kept = u32::from_le_bytes(*bytes) & 0xf000_0000;
        *bytes = (kept | value & 0x0fff_ffff).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 100,000 clusters of 4 KiB.
    fn boot() -> Sector {
        let mut boot = [0; SECTOR];
        boot[11..13].copy_from_slice(&512_u16.to_le_bytes());
        boot[13] = 8;
        boot[14] = 32;
        boot[16] = 2;
        boot[32..36].copy_from_slice(&(32 + 2 * 800 + 100_000 * 8_u32).to_le_bytes());
        boot[36..40].copy_from_slice(&800_u32.to_le_bytes());
        boot[44] = 2;
        boot[48] = 1;
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        boot
    }

    #[test]
    fn every_sector_has_its_purpose() {
        let geometry = Geometry::parse(&boot(), 1 << 30).unwrap();
        for (sector, purpose) in [
            (0, Purpose::Description),
            (1, Purpose::Info),
            (6, Purpose::Description),
            (32, Purpose::Table),
            (1631, Purpose::Table),
            (1632, Purpose::Data),
        ] {
            assert_eq!(geometry.purpose(sector), purpose, "{sector}");
        }
        assert_eq!(geometry.entry_of(1632), (32, 2));
        assert_eq!(geometry.entry_of(1632 + 8 * 126), (33, 0));
        let entries: usize = geometry.table_entries().map(|(_, entries)| entries.len()).sum();
        assert_eq!(entries, 100_000);
    }

    #[test]
    fn a_volume_beyond_its_partition_or_of_another_kind_is_refused() {
        assert!(Geometry::parse(&boot(), 1 << 20).is_err());
        for (at, byte) in
            [(13, 3), (16, 0), (22, 1), (17, 1), (40, 0x80), (510, 0), (12, 16), (48, 40), (44, 1), (47, 1)]
        {
            let mut other = boot();
            other[at] = byte;
            let changed = other != boot();
            assert!(!changed || Geometry::parse(&other, 1 << 30).is_err(), "{at}");
        }
    }

    #[test]
    fn an_entry_that_leads_nowhere_is_noticed_in_the_table_and_in_folders() {
        let geometry = Geometry::parse(&boot(), 1 << 30).unwrap();
        let table = |entry: u32| {
            let mut sector = [0; SECTOR];
            sector[16..20].copy_from_slice(&entry.to_le_bytes());
            [32, 33, 832].map(|at| geometry.leads_somewhere(at, &sector))
        };
        for good in [0, 2, 100_001, 0x0fff_fff7, 0x0fff_ffff, 0xf000_0002] {
            assert_eq!(table(good), [true; 3], "{good}");
        }
        for bad in [1, 100_002, 0x0fff_fff0] {
            assert_eq!(table(bad), [false; 3], "{bad}");
        }
        let folder = |name: u8, attributes: u8, cluster: u32| {
            let mut sector = [0; SECTOR];
            sector[..32].fill(b'.');
            sector[11] = 0x10;
            sector[20..22].fill(0);
            sector[26..28].copy_from_slice(&[2, 0]);
            (sector[32], sector[32 + 11]) = (name, attributes);
            let [low, high, higher, highest] = cluster.to_le_bytes();
            (sector[32 + 26], sector[32 + 27], sector[32 + 20], sector[32 + 21]) = (low, high, higher, highest);
            geometry.leads_somewhere(2000, &sector)
        };
        assert!(folder(b'M', 0x20, 0) && folder(b'M', 0x20, 100_001));
        assert!(!folder(b'M', 0x20, 1) && !folder(b'M', 0x20, 100_002));
        assert!(folder(0, 0x20, 1) && folder(REMOVED, 0x20, 1) && folder(b'M', LONG, 1));
    }

    proptest! {
        #[test]
        fn any_first_sector_is_read_without_panic(at in 0_usize..64, bytes: [u8; 8], medium: u64) {
            let mut any = boot();
            any[at..at + 8].copy_from_slice(&bytes);
            if let Ok(geometry) = Geometry::parse(&any, medium) {
                prop_assert!(geometry.table_entries().all(|(sector, _)| geometry.purpose(sector) == Purpose::Table));
            }
        }
    }
}
