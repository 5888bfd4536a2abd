//! Decides when to measure and when to report, and holds what is reported against the budget of bytes. Facts go in with the time, decisions come
//! out; it never reads a clock, a file or a socket.

use std::time::Duration;

use protocol_types::metrics::{Batch, Pace, Readings, Sample};

use super::ring::{Kept, Ring};

/// Samples that wait: a day of them at the default pace.
const ROOM: usize = 1440;
/// What is older than this is not reported any more; the service would not take it.
const LONGEST_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// What the service may ask for at most: a byte a millisecond.
const MAX_BUDGET: u64 = DAY_MS;
/// The first sample comes after this time at the latest: rates need some time to be rates of.
const SETTLE: Duration = Duration::from_secs(5);
/// A report that nobody acknowledges is made again after this time at the earliest.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was reported and not yet acknowledged.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    newest: u64,
    since: Duration,
}

/// The samples of one run of the agent and what became of them.
#[derive(Debug)]
pub(super) struct Reporter {
    epoch: u32,
    ring: Ring,
    latest: Readings,
    bytes_per_day: u64,
    pace: Option<Pace>,
    /// Bytes that may be sent now, in shares of a byte: one for each millisecond of a day. Negative after a report that was longer than expected.
    credit: i64,
    counted: Duration,
    next_sample: Duration,
    reported: Duration,
    outstanding: Option<Outstanding>,
}

impl Reporter {
    /// A reporter that begins now with this budget. `epoch` is drawn at random.
    pub(super) fn new(epoch: u32, bytes_per_day: u64, now: Duration) -> Self {
        let mut reporter = Self {
            epoch,
            ring: Ring::new(ROOM),
            latest: Readings::default(),
            bytes_per_day: 0,
            pace: None,
            credit: 0,
            counted: now,
            next_sample: now,
            reported: now,
            outstanding: None,
        };
        reporter.set_budget(bytes_per_day, now);
        // An agent that is started again and again must not gain by it.
        reporter.credit = shares(reporter.bytes_per_day / 24);
        reporter.next_sample = now + reporter.pace.map_or(SETTLE, |pace| pace.sample().min(SETTLE));
        reporter
    }

    /// Bytes that may be sent in a day.
    pub(super) const fn budget(&self) -> u64 {
        self.bytes_per_day
    }

    /// Takes another budget.
    pub(super) fn set_budget(&mut self, bytes_per_day: u64, now: Duration) {
        self.count(now);
        self.bytes_per_day = bytes_per_day.min(MAX_BUDGET);
        self.pace = Pace::within(self.bytes_per_day);
        self.credit = self.credit.min(shares(self.bytes_per_day));
        if let Some(pace) = self.pace {
            self.next_sample = self.next_sample.min(now + pace.sample());
        }
    }

    /// When to measure next; none without a budget.
    pub(super) fn next_sample(&self) -> Option<Duration> {
        self.pace.map(|_| self.next_sample)
    }

    /// Something was measured.
    pub(super) fn sampled(&mut self, readings: Readings, now: Duration) {
        let Some(pace) = self.pace else { return };
        // One that comes late does not bring the next ones closer together.
        self.next_sample = (self.next_sample + pace.sample()).max(now + pace.sample() / 2);
        self.latest = readings;
        if !readings.is_empty() {
            self.ring.push(now, readings);
        }
        self.ring.drop_before(now.saturating_sub(LONGEST_AGE));
    }

    /// What was measured last.
    pub(super) const fn latest(&self) -> &Readings {
        &self.latest
    }

    /// How many samples nobody will ever see.
    pub(super) const fn dropped(&self) -> u64 {
        self.ring.dropped()
    }

    /// Whether a report is due and within the budget.
    pub(super) fn is_due(&mut self, now: Duration) -> bool {
        let Some(pace) = self.pace else { return false };
        let waited = match self.outstanding {
            Some(outstanding) => now >= outstanding.since + pace.report().max(PATIENCE),
            // After a time away reports follow each other as fast as the budget lets them.
            None => now >= self.reported + pace.report() || self.ring.len() >= Batch::MAX_SAMPLES,
        };
        waited && self.affordable(now) > 0
    }

    /// The batch that is sent now. It costs what it costs, also when it is a repetition; without budget it is empty.
    pub(super) fn report(&mut self, now: Duration) -> Vec<u8> {
        let count = self.affordable(now).min(Batch::MAX_SAMPLES);
        let batch = Batch {
            epoch: self.epoch,
            dropped: self.ring.dropped(),
            samples: self.ring.iter().take(count).map(|kept| sample(kept, now)).collect(),
        };
        let bytes = batch.encode();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let cost = shares(length.saturating_add(Pace::REPORT_BYTES));
        // A service that asks too often silences a device for a day at most.
        self.credit = self.credit.saturating_sub(cost).max(-shares(self.bytes_per_day));
        if let Some(newest) = batch.samples.last() {
            self.outstanding = Some(Outstanding { newest: newest.number, since: now });
            self.reported = now;
        }
        bytes
    }

    /// The service has everything up to this number. Nobody can acknowledge what was never sent.
    pub(super) fn acknowledge(&mut self, number: u64) {
        let Some(outstanding) = self.outstanding.take_if(|outstanding| number >= outstanding.newest) else { return };
        self.ring.forget(outstanding.newest);
    }

    /// Samples that may be sent now.
    fn affordable(&mut self, now: Duration) -> usize {
        self.count(now);
        let bytes = u64::try_from(self.credit).unwrap_or(0) / DAY_MS;
        let samples = bytes.saturating_sub(Pace::REPORT_BYTES) / Pace::SAMPLE_BYTES;
        usize::try_from(samples).unwrap_or(usize::MAX).min(self.ring.len())
    }

    /// Time brings budget. What was not used while the device was away may be used later, but not more than that of a day.
    fn count(&mut self, now: Duration) {
        let passed = u64::try_from(now.saturating_sub(self.counted).as_millis()).unwrap_or(u64::MAX).min(DAY_MS);
        let gained = i64::try_from(passed.saturating_mul(self.bytes_per_day)).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_add(gained).min(shares(self.bytes_per_day));
        self.counted = self.counted.max(now);
    }
}

fn sample(kept: &Kept, now: Duration) -> Sample {
    Sample { number: kept.number, age_s: now.saturating_sub(kept.at).as_secs(), readings: kept.readings }
}

/// So many bytes in the shares that credit is counted in.
fn shares(bytes: u64) -> i64 {
    i64::try_from(bytes.saturating_mul(DAY_MS)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::metrics::Metric;

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const DAY: u32 = 24 * 60 * 60;

    fn readings(n: i64) -> Readings {
        let mut readings = Readings::default();
        Metric::ALL.iter().for_each(|metric| readings.set(*metric, Some(100 + n % 50)));
        readings
    }

    /// What a device did in a time: samples that it measured, batches that it sent, and their bytes on the network.
    #[derive(Debug, Default)]
    struct Seen {
        measured: u64,
        reports: Vec<Batch>,
        bytes: u64,
    }

    /// Lets seconds pass. Reports are made and acknowledged where `is_there` says so.
    fn live(reporter: &mut Reporter, seconds: std::ops::Range<u32>, is_there: impl Fn(u32) -> bool) -> Seen {
        let mut seen = Seen::default();
        for second in seconds {
            let now = S * second;
            if reporter.next_sample().is_some_and(|at| at <= now) {
                seen.measured += 1;
                reporter.sampled(readings(i64::from(second)), now);
            }
            while is_there(second) && reporter.is_due(now) {
                let bytes = reporter.report(now);
                let batch = Batch::decode(&bytes).unwrap();
                seen.bytes += u64::try_from(bytes.len()).unwrap() + Pace::REPORT_BYTES;
                reporter.acknowledge(batch.samples.last().unwrap().number);
                seen.reports.push(batch);
            }
        }
        seen
    }

    #[test]
    fn at_the_default_budget_every_sample_of_a_day_arrives_once_and_in_time() {
        let budget = 128 * 1024;
        let mut reporter = Reporter::new(7, budget, Duration::ZERO);
        let seen = live(&mut reporter, 0..DAY, |_| true);
        assert!((1340..=1400).contains(&seen.measured), "{}", seen.measured);
        assert!(seen.bytes <= budget, "{}", seen.bytes);
        let samples: Vec<u64> = seen.reports.iter().flat_map(|batch| &batch.samples).map(|one| one.number).collect();
        assert!(samples.iter().copied().eq(1..=samples.len() as u64), "one after the other");
        assert!(seen.measured - samples.len() as u64 <= 6, "what is left waits for the next report");
        assert!(seen.reports.iter().flat_map(|batch| &batch.samples).all(|sample| sample.age_s <= 400));
    }

    #[test]
    fn after_a_day_without_network_the_device_catches_up_within_its_budget() {
        let budget = 128 * 1024;
        let mut reporter = Reporter::new(7, budget, Duration::ZERO);
        let away = 20 * 60 * 60;
        let seen = live(&mut reporter, 0..2 * DAY, |second| second > away);
        let (first, last) = (&seen.reports[0].samples[0], seen.reports.last().unwrap());
        assert_eq!(first.number, 1);
        assert!(
            first.age_s.abs_diff(u64::from(away)) <= 10,
            "the age says when it was, whatever the clock of the device: {first:?}"
        );
        assert_eq!((reporter.dropped(), last.dropped), (0, 0));
        let samples: usize = seen.reports.iter().map(|batch| batch.samples.len()).sum();
        assert!(seen.measured - samples as u64 <= 6);
        assert!(seen.bytes <= 2 * budget, "{}", seen.bytes);
    }

    #[test]
    fn a_report_that_nobody_acknowledges_comes_again_with_what_came_since() {
        let mut reporter = Reporter::new(7, 1_000_000, Duration::ZERO);
        reporter.sampled(readings(1), S);
        let first = Batch::decode(&reporter.report(S * 100)).unwrap();
        reporter.sampled(readings(2), S * 110);
        assert!(!reporter.is_due(S * 130));
        assert!(reporter.is_due(S * 161));
        let again = Batch::decode(&reporter.report(S * 161)).unwrap();
        assert_eq!((first.samples[0].number, again.samples[0].number, again.samples.len()), (1, 1, 2));
        assert_eq!((first.samples[0].age_s, again.samples[0].age_s), (99, 160));
        // The answer to the first report comes late, and says less than what is out.
        reporter.acknowledge(1);
        assert_eq!(Batch::decode(&reporter.report(S * 170)).unwrap().samples.len(), 2);
        reporter.acknowledge(2);
        assert!(Batch::decode(&reporter.report(S * 180)).unwrap().samples.is_empty());
        reporter.acknowledge(u64::MAX);
        reporter.sampled(readings(3), S * 190);
        reporter.acknowledge(3);
        assert_eq!(Batch::decode(&reporter.report(S * 200)).unwrap().samples.len(), 1, "what was never sent");
    }

    #[test]
    fn without_a_budget_nothing_is_measured_and_nothing_sent() {
        let mut reporter = Reporter::new(7, 0, Duration::ZERO);
        assert_eq!((reporter.next_sample(), reporter.is_due(S * 10_000)), (None, false));
        reporter.set_budget(128 * 1024, S * 10_000);
        assert!(reporter.next_sample().is_some_and(|at| at <= S * 10_000));
        assert!(live(&mut reporter, 10_000..20_000, |_| true).measured > 100);
        reporter.set_budget(0, S * 20_000);
        assert_eq!(live(&mut reporter, 20_000..30_000, |_| true).measured, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// However the connection comes and goes, and however often the service asks: a device that begins with an hour's worth never sends more
        /// than its budget and what a day left over.
        #[test]
        fn no_budget_is_ever_exceeded(budget in 500..400_000_u64, up in 1..20_000_u32, down in 1..20_000_u32, days in 1..4_u32) {
            let mut reporter = Reporter::new(7, budget, Duration::ZERO);
            let seen = live(&mut reporter, 0..days * DAY, |second| second % (up + down) < up);
            let longest = Batch::MAX_SAMPLES as u64 * 40 + Pace::REPORT_BYTES;
            prop_assert!(seen.bytes <= u64::from(days) * budget + budget / 24 + longest, "{} bytes", seen.bytes);
        }

        #[test]
        fn a_service_that_asks_all_the_time_gets_empty_answers(budget in 2_000..400_000_u64) {
            let mut reporter = Reporter::new(7, budget, Duration::ZERO);
            live(&mut reporter, 0..DAY, |_| false);
            let mut samples = 0;
            for _ in 0..10_000 {
                samples += Batch::decode(&reporter.report(S * DAY)).unwrap().samples.len();
            }
            prop_assert!(u64::try_from(samples).unwrap() * 10 <= budget, "{}", samples);
        }
    }
}
