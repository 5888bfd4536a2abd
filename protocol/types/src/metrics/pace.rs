//! How often a device may measure and report within its budget of bytes. A function of the budget, so that both sides know it.

use std::time::Duration;

const DAY_S: u64 = 24 * 60 * 60;

/// How often a device measures, and how often it reports what it has measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    sample_s: u64,
    report_s: u64,
}

impl Pace {
    /// Bytes of a report on the network beside its samples: the notification, the service's acknowledgement and the device's answer to it,
    /// each with CoAP, TLS 1.3 and TCP over IPv4 around it, and the last TCP acknowledgement: 90 + 118 + 85 + 52, rounded up.
    pub const REPORT_BYTES: u64 = 360;
    /// Bytes of one sample, as most samples are at most.
    pub const SAMPLE_BYTES: u64 = 24;
    /// Samples in one report, when bytes are scarce.
    const SAMPLES: u64 = 5;
    const SHORTEST_S: u64 = 1;
    const LONGEST_S: u64 = 60 * 60;

    /// The finest pace that keeps within so many bytes a day; none without a budget.
    pub fn within(bytes_per_day: u64) -> Option<Self> {
        if bytes_per_day == 0 {
            return None;
        }
        let with_share_of_report = Self::SAMPLE_BYTES + Self::REPORT_BYTES / Self::SAMPLES;
        let sample_s = (DAY_S * with_share_of_report).div_ceil(bytes_per_day).clamp(Self::SHORTEST_S, Self::LONGEST_S);
        let slowest = sample_s * Self::SAMPLES;
        // What samples leave over goes into reporting sooner.
        let left = bytes_per_day.saturating_sub(DAY_S.div_ceil(sample_s) * Self::SAMPLE_BYTES);
        let report_s = match left {
            0 => slowest,
            left => (DAY_S * Self::REPORT_BYTES).div_ceil(left).clamp(sample_s, slowest),
        };
        Some(Self { sample_s, report_s })
    }

    /// Time between two samples.
    pub const fn sample(self) -> Duration {
        Duration::from_secs(self.sample_s)
    }

    /// Time between two reports.
    pub const fn report(self) -> Duration {
        Duration::from_secs(self.report_s)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_budget_is_a_sample_a_minute_and_a_report_in_five() {
        let pace = Pace::within(128 * 1024).unwrap();
        assert_eq!((pace.sample(), pace.report()), (Duration::from_secs(64), Duration::from_secs(316)));
        assert_eq!(Pace::within(0), None);
        let rich = Pace::within(u64::MAX).unwrap();
        assert_eq!((rich.sample(), rich.report()), (Duration::from_secs(1), Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn a_pace_keeps_within_its_budget_unless_it_is_the_slowest(bytes in 1..100_000_000_u64) {
            let pace = Pace::within(bytes).unwrap();
            let (sample, report) = (pace.sample().as_secs(), pace.report().as_secs());
            prop_assert!(sample <= report && report <= 5 * sample);
            let needed = DAY_S / sample * Pace::SAMPLE_BYTES + DAY_S / report * Pace::REPORT_BYTES;
            prop_assert!(needed <= bytes || sample == Pace::LONGEST_S, "{} of {}", needed, bytes);
        }

        #[test]
        fn a_larger_budget_is_never_a_slower_pace(less in 1..10_000_000_u64, more in 0..10_000_000_u64) {
            let (slow, fast) = (Pace::within(less).unwrap(), Pace::within(less + more).unwrap());
            prop_assert!(fast.sample() <= slow.sample());
        }
    }
}
