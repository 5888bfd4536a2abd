//! Samples that the service does not have yet, in memory and bounded. When there is no more room the older half becomes coarser: a device that
//! was away for long says less of each hour, but something of all of them.

use std::{collections::VecDeque, time::Duration};

use protocol_types::metrics::Readings;

/// One sample as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) number: u64,
    /// When it was measured, by the clock that does not step.
    pub(super) at: Duration,
    pub(super) readings: Readings,
}

/// The samples, the oldest first.
#[derive(Debug)]
pub(super) struct Ring {
    kept: VecDeque<Kept>,
    room: usize,
    last: u64,
    dropped: u64,
}

impl Ring {
    /// A ring with room for so many samples, at least four.
    pub(super) fn new(room: usize) -> Self {
        Self { kept: VecDeque::new(), room: room.max(4), last: 0, dropped: 0 }
    }

    /// Takes a sample.
    pub(super) fn push(&mut self, at: Duration, readings: Readings) {
        if self.kept.len() == self.room {
            self.thin();
        }
        self.last += 1;
        self.kept.push_back(Kept { number: self.last, at, readings });
    }

    /// Every second sample of the older half goes.
    fn thin(&mut self) {
        let (half, mut place) = (self.kept.len() / 2, 0);
        let before = self.kept.len();
        self.kept.retain(|_| {
            place += 1;
            place > half || place % 2 == 1
        });
        self.dropped = self.dropped.saturating_add(u64::try_from(before - self.kept.len()).unwrap_or(u64::MAX));
    }

    /// The samples up to this number are not needed any more.
    pub(super) fn forget(&mut self, number: u64) {
        while self.kept.front().is_some_and(|kept| kept.number <= number) {
            self.kept.pop_front();
        }
    }

    /// The samples measured before this time are too old for anybody.
    pub(super) fn drop_before(&mut self, time: Duration) {
        while self.kept.front().is_some_and(|kept| kept.at < time) {
            self.kept.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter()
    }

    #[cfg(test)]
    fn newest(&self) -> Option<&Kept> {
        self.kept.back()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// How many samples nobody will ever see.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(room: usize, samples: u32) -> Ring {
        let mut ring = Ring::new(room);
        (0..samples).for_each(|n| ring.push(Duration::from_secs(60 * u64::from(n)), Readings::default()));
        ring
    }

    proptest! {
        #[test]
        fn a_ring_never_grows_and_counts_what_it_drops(room in 4..100_usize, samples in 0..2000_u32) {
            let ring = filled(room, samples);
            prop_assert!(ring.len() <= room);
            prop_assert_eq!(ring.dropped() + ring.len() as u64, u64::from(samples));
            prop_assert!(ring.iter().zip(ring.iter().skip(1)).all(|(a, b)| a.number < b.number && a.at < b.at));
            prop_assert_eq!(ring.newest().map_or(0, |kept| kept.number), u64::from(samples));
        }

        #[test]
        fn the_first_sample_of_a_time_away_outlives_any_length_of_it(room in 4..100_usize, samples in 1..5000_u32) {
            prop_assert_eq!(filled(room, samples).iter().next().map(|kept| kept.number), Some(1));
        }
    }

    #[test]
    fn what_the_service_has_is_forgotten_and_what_is_too_old_is_dropped() {
        let mut ring = filled(10, 10);
        ring.forget(4);
        assert_eq!((ring.len(), ring.dropped()), (6, 0));
        ring.drop_before(Duration::from_secs(60 * 6));
        assert_eq!((ring.len(), ring.dropped(), ring.iter().next().unwrap().number), (4, 2, 7));
        ring.forget(1000);
        assert_eq!(ring.newest(), None);
    }
}
