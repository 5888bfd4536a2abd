//! How long to wait before the next try, and with which server. Never draws randomness of its own.

use std::time::Duration;

use super::Settings;
use crate::random::Random;

/// Which kind of server the client wants to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Bootstrap,
    Management,
}

/// Why a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody answered, or the connection broke.
    Unreachable,
    /// A registration ended with its connection.
    Lost,
    /// A server answered and said no, by TLS or by CoAP.
    Refused,
}

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    refusals: u32,
}

impl Retry {
    /// A registration stood long enough to forget what was before it.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The management server took us, so what it said before no longer counts.
    pub(super) fn accepted(&mut self) {
        self.refusals = 0;
    }

    /// Counts a failure: the wait before the next try, and whom to try. `has_account` says whether a management server is known.
    pub(super) fn failed(
        &mut self,
        at: (Goal, Failure),
        has_account: bool,
        settings: &Settings,
        random: &mut Random,
    ) -> (Duration, Goal) {
        let doubled = 2_u32.saturating_pow(self.failures.min(30));
        let most = settings.first_retry.saturating_mul(doubled).min(settings.last_retry);
        self.failures = self.failures.saturating_add(1);
        let goal = match at {
            _ if !has_account => Goal::Bootstrap,
            // The management server may have come back meanwhile.
            (Goal::Bootstrap, _) => Goal::Management,
            (Goal::Management, Failure::Unreachable | Failure::Lost) => Goal::Management,
            (Goal::Management, Failure::Refused) => {
                self.refusals += 1;
                if self.refusals >= settings.refusals_before_bootstrap { Goal::Bootstrap } else { Goal::Management }
            }
        };
        if goal == Goal::Bootstrap {
            self.refusals = 0;
        }
        let wait = match at {
            (_, Failure::Lost) => random.up_to(most.max(settings.return_spread).min(settings.last_retry)),
            (_, Failure::Unreachable | Failure::Refused) => random.upper_half(most),
        };
        (wait, goal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("gate-42".parse().unwrap(), 1)
    }

    #[test]
    fn the_wait_doubles_up_to_its_ceiling_and_is_never_less_than_half_of_it() {
        let (settings, mut retry, mut random) = (settings(), Retry::default(), Random::new(7));
        for most in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300_u64] {
            let (wait, _) = retry.failed((Goal::Management, Failure::Unreachable), true, &settings, &mut random);
            assert!(wait <= Duration::from_secs(most) && wait >= Duration::from_secs(most) / 2, "{wait:?} of {most}");
        }
    }

    #[test]
    fn a_lost_registration_comes_back_at_any_time_of_the_spread_and_then_waits_as_after_any_failure() {
        let (mut settings, mut random) = (settings(), Random::new(7));
        let mut lost = |settings: &Settings| {
            let mut retry = Retry::default();
            let (wait, goal) = retry.failed((Goal::Management, Failure::Lost), true, settings, &mut random);
            let (next, _) = retry.failed((goal, Failure::Unreachable), true, settings, &mut random);
            (wait, next)
        };
        let waits: Vec<_> = (0..1000).map(|_| lost(&settings)).collect();
        let (first, last) = (waits.iter().map(|(wait, _)| *wait).min(), waits.iter().map(|(wait, _)| *wait).max());
        assert!(
            first < Some(Duration::from_millis(500)) && last > Some(Duration::from_millis(4500)),
            "{first:?} {last:?}"
        );
        assert!(last <= Some(Duration::from_secs(5)), "{last:?}");
        let is_doubled = |wait: Duration| wait >= settings.first_retry && wait <= settings.first_retry * 2;
        assert!(waits.iter().all(|(_, next)| is_doubled(*next)));
        settings.last_retry = Duration::from_secs(1);
        assert!((0..100).all(|_| lost(&settings).0 <= settings.last_retry), "the ceiling holds for every wait");
    }

    #[test]
    fn an_outage_never_makes_a_device_enrol_again_but_refusals_do() {
        let (settings, mut retry, mut random) = (settings(), Retry::default(), Random::new(7));
        for _ in 0..100 {
            let (_, goal) = retry.failed((Goal::Management, Failure::Unreachable), true, &settings, &mut random);
            assert_eq!(goal, Goal::Management);
        }
        let goals: Vec<_> = (0..3)
            .map(|_| retry.failed((Goal::Management, Failure::Refused), true, &settings, &mut random).1)
            .collect();
        assert_eq!(goals, [Goal::Management, Goal::Management, Goal::Bootstrap]);
    }
}
