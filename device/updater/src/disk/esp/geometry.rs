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

/// The layout of a volume, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Both copies of the table.
    table: Range<u64>,
    table_sectors: u64,
    cluster_sectors: u64,
    clusters: u64,
    info: u64,
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
        if total * SECTOR as u64 > medium {
            return Err(GeometryError("longer than its partition"));
        }
        Ok(Self { table: reserved..data, table_sectors, cluster_sectors, clusters, info })
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
        for (at, byte) in [(13, 3), (16, 0), (22, 1), (17, 1), (40, 0x80), (510, 0), (12, 16), (48, 40), (35, 0)] {
            let mut other = boot();
            other[at] = byte;
            let changed = other != boot();
            assert!(!changed || Geometry::parse(&other, 1 << 30).is_err(), "{at}");
        }
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
