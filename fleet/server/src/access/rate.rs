//! How often an account may ask: a steady rate with room for bursts, counted in this process (GCRA).

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};
use protocol_types::AccountName;

use crate::Limits;

/// What each account may still ask.
#[derive(Debug)]
pub(crate) struct RateLimits {
    limiter: RateLimiter<AccountName, HashMapStateStore<AccountName>, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

/// What is left after a request, in the terms of the headers `RateLimit-Policy` and `RateLimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests that may come at once.
    pub(crate) burst: u32,
    /// Seconds after which all of them may come again.
    pub(crate) window_s: u32,
    /// Requests that may still come now.
    pub(crate) remaining: u32,
    /// Seconds to wait, for a request that was one too many.
    pub(crate) retry_after_s: Option<u64>,
}

impl RateLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        let per_second = NonZeroU32::new(limits.account_requests_per_s).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(limits.account_burst).unwrap_or(NonZeroU32::MIN);
        let clock = DefaultClock::default();
        let limiter = RateLimiter::hashmap_with_clock(Quota::per_second(per_second).allow_burst(burst), clock.clone())
            .with_middleware::<StateInformationMiddleware>();
        Self { limiter, clock, per_second, burst }
    }

    /// Counts a request of the account.
    pub(crate) fn count(&self, account: &AccountName) -> Allowance {
        let allowance = |remaining, retry_after_s| Allowance {
            burst: self.burst.get(),
            window_s: self.burst.get().div_ceil(self.per_second.get()),
            remaining,
            retry_after_s,
        };
        match self.limiter.check_key(account) {
            Ok(state) => allowance(state.remaining_burst_capacity(), None),
            Err(until) => allowance(0, Some(whole_seconds(until.wait_time_from(self.clock.now())))),
        }
    }

    /// Forgets accounts that have not asked for long enough that nothing counts any more.
    pub(crate) fn forget_quiet(&self) {
        self.limiter.retain_recent();
    }
}

/// Rounded up, and never zero: a client that waits as long is not too early.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_asks_too_often_waits_and_no_other_does() {
        let limits = Limits { account_requests_per_s: 1, account_burst: 3, ..Limits::default() };
        let rates = RateLimits::new(&limits);
        let [one, two] = ["one", "two"].map(|name| AccountName::new(name).unwrap());
        for left in [2, 1, 0] {
            let allowance = rates.count(&one);
            assert_eq!((allowance.remaining, allowance.retry_after_s, allowance.window_s), (left, None, 3));
        }
        assert_eq!(rates.count(&one).retry_after_s, Some(1));
        assert_eq!(rates.count(&two).retry_after_s, None);
    }

    #[test]
    fn seconds_to_wait_are_rounded_up() {
        let wait = |ms| whole_seconds(Duration::from_millis(ms));
        assert_eq!([wait(0), wait(1), wait(1000), wait(1001)], [1, 1, 1, 2]);
    }
}
