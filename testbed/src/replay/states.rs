//! The states that a power cut could leave on a disk, from the history of its writes and flushes.
//!
//! A sector is written whole or not at all. Of the sectors that were written to a partition since its last flush, each may hold what
//! it held at that flush or anything that was written to it since, whatever the others hold: so writes are lost, torn at sectors and
//! done in any order. What was flushed stays. A flush of one partition says nothing about another.

use std::collections::{BTreeMap, HashSet};

use super::{
    Extent, Medium,
    history::Event,
    sectors::{Content, Disk, Part, Place},
};

/// Contents of sectors that differ from all or from none of what was written.
type Flips = Vec<(Place, Content)>;
/// Small sets of unflushed sectors are gone through in whole.
const MOST_COMBINATIONS: usize = 256;

/// A reproducible source of choices (xorshift64*).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % bound.max(1)
    }
}

/// Which states a state is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// Nothing arrived that was not flushed.
    Flushed,
    /// Everything arrived.
    Written,
}

/// A way through a history, at one moment of it.
struct Walk {
    flushed: Disk,
    written: Disk,
    /// What was written since the last flush, each sector's contents in order.
    pending: BTreeMap<Place, Vec<Content>>,
    /// Sums over the contents of both disks.
    sums: [u64; 2],
    seen: HashSet<u64>,
}

/// A number for a content in a place, without a pattern (splitmix64).
fn mark(place: Place, content: Content) -> u64 {
    let part = Part::ALL.iter().position(|part| *part == place.part).unwrap_or(0) as u64;
    let mut mixed = (part << 56 ^ (place.sector as u64) << 28 ^ u64::from(content)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl Walk {
    /// Hands a state to `visit`, unless it was seen before.
    fn emit(&mut self, base: Base, flips: &[(Place, Content)], visit: &mut impl FnMut(&Disk)) {
        let disk = if base == Base::Flushed { &mut self.flushed } else { &mut self.written };
        let mut sum = self.sums[base as usize];
        let mut undo: Flips = Vec::with_capacity(flips.len());
        for (place, content) in flips {
            let before = disk.set(*place, *content);
            sum ^= mark(*place, before) ^ mark(*place, *content);
            undo.push((*place, before));
        }
        if self.seen.insert(sum) {
            visit(disk);
        }
        for (place, before) in undo.into_iter().rev() {
            disk.set(place, before);
        }
    }

    fn write(&mut self, place: Place, content: Content) {
        let before = self.written.set(place, content);
        self.sums[Base::Written as usize] ^= mark(place, before) ^ mark(place, content);
        self.pending.entry(place).or_default().push(content);
    }

    fn flush(&mut self, part: Part) {
        let lasting: Vec<Place> = self.pending.keys().copied().filter(|place| place.part == part).collect();
        for place in lasting {
            if let Some(content) = self.pending.remove(&place).and_then(|contents| contents.last().copied()) {
                let before = self.flushed.set(place, content);
                self.sums[Base::Flushed as usize] ^= mark(place, before) ^ mark(place, content);
            }
        }
    }

    /// Everything that a sector may hold.
    fn choices(&self, place: Place, contents: &[Content]) -> Vec<Content> {
        let mut choices = vec![self.flushed.get(place)];
        choices.extend_from_slice(contents);
        choices
    }

    /// Each single sector lost, and each single sector ahead of all others, of a partition that is about to be flushed; and all
    /// combinations of what its sectors may hold, if they are few.
    fn emit_before_flush(&mut self, part: Part, visit: &mut impl FnMut(&Disk)) {
        let pending = self.pending.iter().filter(|(place, _)| place.part == part);
        let all: Vec<(Place, Vec<Content>)> =
            pending.map(|(place, contents)| (*place, self.choices(*place, contents))).collect();
        for (place, choices) in &all {
            for choice in choices {
                self.emit(Base::Written, &[(*place, *choice)], visit);
                self.emit(Base::Flushed, &[(*place, *choice)], visit);
            }
        }
        let count = all.iter().try_fold(1_usize, |count, (_, choices)| {
            count.checked_mul(choices.len()).filter(|count| *count <= MOST_COMBINATIONS)
        });
        for combination in 0..count.unwrap_or(0) {
            let mut rest = combination;
            let mut flips: Flips = Vec::new();
            for (place, choices) in &all {
                flips.push((*place, choices[rest % choices.len()]));
                rest /= choices.len();
            }
            for base in [Base::Flushed, Base::Written] {
                self.emit(base, &flips, visit);
            }
        }
    }

    /// Some sectors that differ from the others, drawn from all that were not flushed.
    fn emit_drawn(&mut self, dice: &mut Dice, visit: &mut impl FnMut(&Disk)) {
        if self.pending.len() < 2 {
            return;
        }
        let places: Vec<Place> = self.pending.keys().copied().collect();
        let count = match dice.below(16) {
            0 => dice.below(places.len()),
            few => few.min(places.len()),
        };
        let mut flips: Flips = Vec::new();
        let mut from = dice.below(places.len());
        for _ in 0..count {
            // Runs of neighbours as well as sectors far from each other.
            from = if dice.below(3) == 0 { (from + 1) % places.len() } else { dice.below(places.len()) };
            let place = places[from];
            let choices = self.choices(place, &self.pending[&place]);
            flips.push((place, choices[dice.below(choices.len())]));
        }
        let base = if dice.below(2) == 0 { Base::Flushed } else { Base::Written };
        self.emit(base, &flips, visit);
    }
}

/// One state, as it is shown.
pub(super) struct State<'a> {
    pub(super) disk: &'a Disk,
    /// How many events of the history began before the cut.
    pub(super) events: usize,
}

/// Goes through the states that a cut at any moment of a history could leave: every prefix of its sectors, small differences from
/// each in whole, and drawn ones until there were as many different states as wanted.
pub(super) fn explore(start: &Disk, events: &[Event], extent: Extent, mut show: impl FnMut(&State<'_>)) {
    let (mut dice, most) = (Dice::new(extent.seed), extent.states);
    let mut walk = Walk {
        flushed: start.clone(),
        written: start.clone(),
        pending: BTreeMap::new(),
        sums: [0; 2],
        seen: HashSet::new(),
    };
    let mut drawn_at_a_write = 0;
    loop {
        let before = walk.seen.len();
        for (number, event) in events.iter().enumerate() {
            let visit = &mut |disk: &Disk| show(&State { disk, events: number + 1 });
            match event {
                Event::Write { part, first, contents } => {
                    for (sector, content) in (*first..).zip(contents) {
                        walk.write(Place { part: *part, sector }, *content);
                        walk.emit(Base::Written, &[], visit);
                    }
                    for _ in 0..drawn_at_a_write {
                        if walk.seen.len() < most {
                            walk.emit_drawn(&mut dice, visit);
                        }
                    }
                }
                Event::Flush(part) => {
                    walk.emit_before_flush(*part, visit);
                    if extent.medium == Medium::Keeps {
                        walk.flush(*part);
                    }
                }
                Event::Files(_) | Event::FilesLast | Event::May(_) => {}
            }
        }
        // Then once more from the beginning, with states drawn at each write.
        let writes = events.iter().filter(|event| matches!(event, Event::Write { .. })).count().max(1);
        let missing = most.saturating_sub(walk.seen.len());
        if missing == 0 || (drawn_at_a_write > 0 && walk.seen.len() == before) {
            return;
        }
        drawn_at_a_write = missing.div_ceil(writes).max(8);
        let seen = std::mem::take(&mut walk.seen);
        walk = Walk { flushed: start.clone(), written: start.clone(), pending: BTreeMap::new(), sums: [0; 2], seen };
    }
}

#[cfg(test)]
mod tests {
    use super::super::sectors::{Library, SECTOR};
    use super::*;

    /// All states of a disk of a few sectors, as the contents of the first three of them.
    fn states(events: &[Event], most: usize) -> HashSet<Vec<Content>> {
        let mut library = Library::default();
        let start = Disk::read(&mut library, |_| Ok(vec![0; 4 * SECTOR])).unwrap();
        let mut found = HashSet::new();
        let extent = Extent { seed: 1, states: most, samples: 0, medium: Medium::Keeps };
        explore(&start, events, extent, |state| {
            found.insert(state.disk.part(Part::Esp)[..3].to_vec());
        });
        found
    }

    fn write(first: usize, contents: &[Content]) -> Event {
        Event::Write { part: Part::Esp, first, contents: contents.to_vec() }
    }

    #[test]
    fn unflushed_sectors_arrive_in_every_combination_and_flushed_ones_stay() {
        let found = states(&[write(0, &[1, 2]), Event::Flush(Part::Esp), write(2, &[3]), Event::Flush(Part::Esp)], 100);
        let expected = [[0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 2, 0], [1, 2, 3]].map(|state| state.to_vec());
        assert_eq!(found, HashSet::from(expected));
    }

    #[test]
    fn a_sector_that_was_written_twice_may_hold_any_of_it() {
        let found = states(&[write(0, &[1]), write(0, &[2]), write(1, &[3]), Event::Flush(Part::Esp)], 100);
        let every = (0..3).flat_map(|first| [0, 3].map(|second| vec![first, second, 0]));
        assert_eq!(found, every.collect());
    }

    #[test]
    fn a_flush_of_another_partition_keeps_nothing() {
        let elsewhere = Event::Write { part: Part::Verity(protocol_types::Slot::B), first: 0, contents: vec![9] };
        let found = states(&[write(0, &[1]), elsewhere, Event::Flush(Part::Verity(protocol_types::Slot::B))], 100);
        assert_eq!(found, HashSet::from([vec![0, 0, 0], vec![1, 0, 0]]));
    }

    #[test]
    fn the_same_seed_shows_the_same_states() {
        let events = [write(0, &[1, 2, 3]), write(0, &[4, 5, 6]), write(1, &[7, 8])];
        assert_eq!(states(&events, 60), states(&events, 60));
    }
}
