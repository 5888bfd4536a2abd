//! The partitions of a board as sectors. Each content is kept once and known by a number, so that many states of a disk can be
//! compared and bent without copying bytes.

use std::collections::HashMap;

use protocol_types::Slot;

/// Bytes in a sector: what a medium writes whole or not at all.
pub(super) const SECTOR: usize = 512;
/// One sector.
pub(super) type Sector = [u8; SECTOR];

/// A partition that an update writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    Esp,
    Root(Slot),
    Verity(Slot),
}

impl Part {
    pub(super) const ALL: [Self; 5] =
        [Self::Esp, Self::Root(Slot::A), Self::Verity(Slot::A), Self::Root(Slot::B), Self::Verity(Slot::B)];

    /// Its label in the partition table.
    pub(super) fn label(self) -> String {
        match self {
            Self::Esp => "esp".to_owned(),
            Self::Root(slot) => format!("root-{slot}"),
            Self::Verity(slot) => format!("verity-{slot}"),
        }
    }

    const fn number(self) -> usize {
        match self {
            Self::Esp => 0,
            Self::Root(Slot::A) => 1,
            Self::Verity(Slot::A) => 2,
            Self::Root(Slot::B) => 3,
            Self::Verity(Slot::B) => 4,
        }
    }
}

/// A sector of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) part: Part,
    pub(super) sector: usize,
}

/// The number of a content.
pub(super) type Content = u32;

/// Every content that occurs.
#[derive(Debug, Default)]
pub(super) struct Library {
    contents: Vec<Sector>,
    known: HashMap<Sector, Content>,
}

impl Library {
    pub(super) fn number(&mut self, sector: &Sector) -> Content {
        if let Some(known) = self.known.get(sector) {
            return *known;
        }
        let number = Content::try_from(self.contents.len()).unwrap_or(Content::MAX);
        self.contents.push(*sector);
        self.known.insert(*sector, number);
        number
    }

    pub(super) fn sector(&self, number: Content) -> &Sector {
        &self.contents[number as usize]
    }

    /// The numbers of the sectors of `bytes`, the last one filled up with zeros.
    pub(super) fn numbers(&mut self, bytes: &[u8]) -> Vec<Content> {
        let whole = |piece: &[u8]| {
            let mut sector = [0; SECTOR];
            sector[..piece.len()].copy_from_slice(piece);
            sector
        };
        bytes.chunks(SECTOR).map(|piece| self.number(&whole(piece))).collect()
    }
}

/// What stands in every sector of every partition.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    parts: [Vec<Content>; 5],
}

impl Disk {
    /// A disk whose partitions hold what `bytes_of` gives.
    pub(super) fn read(
        library: &mut Library,
        mut bytes_of: impl FnMut(Part) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Self> {
        let mut parts = [const { Vec::new() }; 5];
        for part in Part::ALL {
            parts[part.number()] = library.numbers(&bytes_of(part)?);
        }
        Ok(Self { parts })
    }

    pub(super) fn get(&self, place: Place) -> Content {
        self.parts[place.part.number()][place.sector]
    }

    /// Puts a content in a place; returns what was there.
    pub(super) fn set(&mut self, place: Place, content: Content) -> Content {
        std::mem::replace(&mut self.parts[place.part.number()][place.sector], content)
    }

    pub(super) fn part(&self, part: Part) -> &[Content] {
        &self.parts[part.number()]
    }
}
