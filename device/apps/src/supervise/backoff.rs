//! How long to wait before the next attempt: twice as long each time up to a ceiling, and never quite as long as anybody else.

use std::time::Duration;

/// Counts attempts that failed. Randomness comes from the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Backoff {
    /// No failure yet; the first wait is at most `first`, none is longer than `ceiling`.
    pub const fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, failures: 0 }
    }

    /// Notes a failure; returns the wait, which `random` places between half and all of what the failures so far call for.
    pub fn fail(&mut self, random: u32) -> Duration {
        let doubled = 1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(doubled).min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Notes a success: the next failure is the first again.
    pub const fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_the_ceiling_nor_shorter_than_half_of_its_step(randoms: Vec<u32>) {
            let (first, ceiling) = (Duration::from_millis(500), Duration::from_secs(60));
            let mut backoff = Backoff::new(first, ceiling);
            let mut step = first;
            for random in randoms {
                let wait = backoff.fail(random);
                prop_assert!(wait >= step / 2 && wait <= step, "{wait:?} for a step of {step:?}");
                step = (step * 2).min(ceiling);
            }
        }
    }

    #[test]
    fn a_success_makes_the_next_wait_short_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for _ in 0..9 {
            backoff.fail(u32::MAX);
        }
        backoff.succeed();
        assert!(backoff.fail(u32::MAX) <= Duration::from_secs(1));
    }
}
