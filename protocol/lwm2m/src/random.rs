//! Numbers that only have to differ: tokens and jitter, grown from a seed that the caller draws. Never used for keys.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and three mixing steps, full period.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration up to `most`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        let ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.next() % ms.saturating_add(1))
    }

    /// A duration between half of `most` and `most`.
    pub(crate) fn upper_half(&mut self, most: Duration) -> Duration {
        let ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(ms - self.next() % (ms / 2 + 1))
    }
}
