//! When the operational certificate is renewed: from two thirds of its validity on, again and again with back-off. Never asks
//! for one itself.

use std::time::Duration;

use crate::{backoff::Backoff, clock::Present, tls::Validities};

const FIRST: Duration = Duration::from_secs(30);
const CEILING: Duration = Duration::from_secs(3600);
/// The longest sleep between two looks at the clock, which may be corrected meanwhile.
const LOOK: Duration = Duration::from_secs(3600);

/// What is to be done about a certificate now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Look again after this time.
    In(Duration),
    /// Ask for the next one.
    Renew,
    /// It has expired: enrol anew.
    Expired,
}

/// The tries to renew one certificate.
#[derive(Debug)]
pub(crate) struct Renewal {
    validity: Validities,
    retry: Backoff,
    /// Monotonic time of the next try.
    not_before: Duration,
    under_way: bool,
}

impl Renewal {
    /// A certificate with this validity was just taken or loaded.
    pub(crate) fn of(validity: Validities) -> Self {
        Self { validity, retry: Backoff::new(FIRST, CEILING), not_before: Duration::ZERO, under_way: false }
    }

    /// What is due at `present`, which is the monotonic time `at`.
    pub(crate) fn due(&self, present: Present, at: Duration) -> Due {
        // With a clock that is behind nothing is known but that the floor has passed.
        let now = present.earliest();
        if now >= self.validity.not_after {
            return Due::Expired;
        }
        if self.under_way {
            return Due::In(LOOK);
        }
        let until_due = self.validity.renewal().since(now);
        let until_retry = self.not_before.saturating_sub(at);
        match until_due.max(until_retry) {
            Duration::ZERO => Due::Renew,
            wait => Due::In(wait.min(LOOK)),
        }
    }

    /// Whether an answer is awaited.
    pub(crate) const fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// The question is out.
    pub(crate) fn asked(&mut self) {
        self.under_way = true;
    }

    /// The question failed at the monotonic time `at`.
    pub(crate) fn failed(&mut self, at: Duration, random: u64) {
        self.under_way = false;
        self.not_before = at.saturating_add(self.retry.wait(random));
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::UnixSeconds;

    use super::*;

    const DAY: u64 = 86_400;

    fn month() -> Renewal {
        Renewal::of(Validities { not_before: UnixSeconds(1000 * DAY), not_after: UnixSeconds(1030 * DAY) })
    }

    const fn day(day: u64) -> Present {
        Present::Known(UnixSeconds(day * DAY))
    }

    #[test]
    fn a_certificate_is_renewed_from_two_thirds_on_and_given_up_at_its_end() {
        let renewal = month();
        assert_eq!(renewal.due(day(1001), Duration::ZERO), Due::In(LOOK));
        assert_eq!(
            renewal.due(Present::Known(UnixSeconds(1020 * DAY - 60)), Duration::ZERO),
            Due::In(Duration::from_secs(60))
        );
        assert_eq!(renewal.due(day(1020), Duration::ZERO), Due::Renew);
        assert_eq!(renewal.due(day(1030), Duration::ZERO), Due::Expired);
    }

    #[test]
    fn a_failed_renewal_is_tried_again_after_a_wait_and_never_twice_at_once() {
        let mut renewal = month();
        renewal.asked();
        assert_eq!(renewal.due(day(1020), Duration::ZERO), Due::In(LOOK));
        renewal.failed(Duration::from_secs(100), u64::MAX);
        let Due::In(wait) = renewal.due(day(1020), Duration::from_secs(100)) else { panic!("no wait") };
        assert!(wait >= FIRST / 2 && wait <= FIRST, "{wait:?}");
        assert_eq!(renewal.due(day(1020), Duration::from_secs(100) + wait), Due::Renew);
    }

    #[test]
    fn a_clock_that_is_behind_renews_nothing_before_its_time() {
        assert!(matches!(month().due(Present::AtLeast(UnixSeconds(1000 * DAY)), Duration::ZERO), Due::In(_)));
    }
}
