//! Points in time as the caller counts them. Never reads a clock.

use std::time::Duration;

/// Milliseconds on the caller's monotonic clock; only differences mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// This time and `later` on top of it; the far end of time where that does not fit.
    pub const fn plus(self, later: Duration) -> Self {
        let ms = later.as_secs().saturating_mul(1000).saturating_add(later.subsec_millis() as u64);
        Self(self.0.saturating_add(ms))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
