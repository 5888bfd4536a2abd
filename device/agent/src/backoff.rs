//! How long to wait before the next try: twice as long each time, up to a ceiling, and never in step with other devices.
//! Never waits itself and holds no source of randomness.

use std::time::Duration;

/// Doubling waits with jitter between half of the wait and the whole of it.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins at `first` and never exceeds `ceiling`.
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first: first.min(ceiling), ceiling, next: first.min(ceiling) }
    }

    /// The next wait; `random` is a fresh random number.
    pub fn wait(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.ceiling);
        let half = whole / 2;
        let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_nanos(random % span)
    }

    /// The last try went well: begin anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_to_the_ceiling_and_never_beyond(randoms in prop::collection::vec(any::<u64>(), 1..80)) {
            let ceiling = Duration::from_secs(60);
            let mut backoff = Backoff::new(Duration::from_millis(500), ceiling);
            for (n, random) in (0_u32..).zip(randoms) {
                let whole = Duration::from_millis(500).saturating_mul(2_u32.saturating_pow(n)).min(ceiling);
                let wait = backoff.wait(random);
                prop_assert!(wait >= whole / 2 && wait <= whole, "{wait:?} at try {n}");
            }
            backoff.reset();
            prop_assert!(backoff.wait(u64::MAX) <= Duration::from_millis(500));
        }
    }
}
