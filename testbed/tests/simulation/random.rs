//! Chances that a seed decides.

/// A stream of numbers (SplitMix64: any spread will do, as long as the seed reproduces it).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A stream of its own for a part of the simulation, which no draw of another part disturbs.
    pub(crate) fn of(seed: u64, part: &str, number: usize) -> Self {
        let mut mixed = Self(seed ^ u64::try_from(number).unwrap_or(0).wrapping_mul(0xd6e8_feb8_6659_fd93));
        for byte in part.bytes() {
            mixed = Self(mixed.number() ^ u64::from(byte));
        }
        Self(mixed.number())
    }

    pub(crate) const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least` to less than `end`.
    pub(crate) fn between(&mut self, least: u64, end: u64) -> u64 {
        least + self.number() % (end - least).max(1)
    }

    /// True in so many of a thousand cases.
    pub(crate) fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.number() % 1000 < of_a_thousand
    }

    /// A place in a list of this length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.between(0, u64::try_from(length).unwrap_or(1))).unwrap_or(0)
    }
}
