//! What a device reports at once: samples with their ages, as a short CBOR array (`docs/formats/metrics.md`). The reader is total: it ends on
//! any bytes and takes memory in proportion to them.

use minicbor::{Decoder, Encoder};

use super::{Metric, Readings};

/// One sample as it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Counts the samples of one run of the agent; rises from each to the next, with gaps where some were dropped.
    pub number: u64,
    /// Seconds between the measurement and the report, by a clock that does not step. The device's idea of the time of day is not needed.
    pub age_s: u64,
    /// What was measured.
    pub readings: Readings,
}

/// Samples that are reported together, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tells runs of the agent apart: numbers of samples begin anew with each.
    pub epoch: u32,
    /// How many samples of this run were dropped for lack of room or of budget.
    pub dropped: u64,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// Bytes that are no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It is longer than any batch.
    #[error("a batch has at most {most} bytes", most = Batch::MAX_BYTES)]
    TooLong,
    /// It is of a version that this program does not know.
    #[error("version {0} of batches is not known, only 1 is")]
    Version(u64),
    /// It breaks a rule of the format.
    #[error("the batch is malformed: {0}")]
    Malformed(&'static str),
}

impl Batch {
    /// The longest batch, in bytes.
    pub const MAX_BYTES: usize = 12 * 1024;
    /// Most samples of a batch.
    pub const MAX_SAMPLES: usize = 120;
    const VERSION: u64 = 1;

    /// The bytes of the batch. Samples are in the order of their numbers and not older than the one before.
    pub fn encode(&self) -> Vec<u8> {
        let mut numbers = Vec::new();
        let mut before = Before::default();
        for sample in &self.samples {
            before.write(sample, &mut numbers);
        }
        // Writing to memory does not fail.
        write(self, &numbers).unwrap_or_default()
    }

    /// Reads a batch.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(BatchError::TooLong);
        }
        let mut decoder = Decoder::new(bytes);
        if decoder.array().map_err(broken)? != Some(4) {
            return Err(BatchError::Malformed("it is no array of four"));
        }
        match decoder.u64().map_err(broken)? {
            Self::VERSION => {}
            other => return Err(BatchError::Version(other)),
        }
        let epoch = decoder.u32().map_err(broken)?;
        let dropped = decoder.u64().map_err(broken)?;
        let length = decoder.array().map_err(broken)?.ok_or(BatchError::Malformed("the samples have no length"))?;
        // A claimed length is never trusted with memory: each number takes a byte, and those run out.
        let mut numbers = Vec::new();
        for _ in 0..length {
            numbers.push(decoder.i64().map_err(broken)?);
        }
        if decoder.position() != bytes.len() {
            return Err(BatchError::Malformed("bytes follow the batch"));
        }
        let mut numbers = numbers.into_iter();
        let (mut samples, mut before) = (Vec::new(), Before::default());
        while let Some(number) = numbers.next() {
            if samples.len() == Self::MAX_SAMPLES {
                return Err(BatchError::Malformed("it has too many samples"));
            }
            samples.push(before.read(number, &mut numbers)?);
        }
        Ok(Self { epoch, dropped, samples })
    }
}

fn write(batch: &Batch, numbers: &[i64]) -> Result<Vec<u8>, minicbor::encode::Error<std::convert::Infallible>> {
    let mut out = Encoder::new(Vec::with_capacity(16 + 2 * numbers.len()));
    out.array(4)?.u64(Batch::VERSION)?.u32(batch.epoch)?.u64(batch.dropped)?;
    out.array(u64::try_from(numbers.len()).unwrap_or(u64::MAX))?;
    for number in numbers {
        out.i64(*number)?;
    }
    Ok(out.into_writer())
}

fn broken(_: minicbor::decode::Error) -> BatchError {
    BatchError::Malformed("it is not the CBOR of a batch")
}

/// What the numbers of the next sample are counted from: small differences are short in CBOR.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    sample: Option<(u64, u64)>,
    readings: Readings,
}

impl Before {
    fn write(&mut self, sample: &Sample, numbers: &mut Vec<i64>) {
        let (number, age) = self.sample.map_or((sample.number, sample.age_s), |(number, age)| {
            (sample.number.saturating_sub(number), age.saturating_sub(sample.age_s))
        });
        numbers.extend([small(number), small(age)]);
        let mask = sample.readings.iter().fold(0_i64, |mask, (metric, _)| mask | (1 << metric.index()));
        numbers.push(mask);
        for (metric, steps) in sample.readings.iter() {
            numbers.push(steps - self.readings.get(metric).unwrap_or(0));
            self.readings.set(metric, Some(steps));
        }
        self.sample = Some((sample.number, sample.age_s));
    }

    fn read(&mut self, number: i64, more: &mut impl Iterator<Item = i64>) -> Result<Sample, BatchError> {
        let mut next = || more.next().ok_or(BatchError::Malformed("a sample breaks off"));
        let wrong = |_| BatchError::Malformed("a number of a sample is negative");
        let (number, age) = (u64::try_from(number).map_err(wrong)?, u64::try_from(next()?).map_err(wrong)?);
        let (number, age_s) = match self.sample {
            None => (number, age),
            Some(_) if number == 0 => return Err(BatchError::Malformed("two samples have one number")),
            Some((last, last_age)) => {
                let number = last.checked_add(number).ok_or(BatchError::Malformed("a number is too large"))?;
                (number, last_age.checked_sub(age).ok_or(BatchError::Malformed("a sample lies in the future"))?)
            }
        };
        let mask = u64::try_from(next()?).map_err(wrong)?;
        let mut readings = Readings::default();
        for bit in (0..u64::BITS).filter(|bit| (mask >> bit) & 1 == 1) {
            let difference = next()?;
            // A metric of a newer agent is passed over.
            let known = usize::try_from(bit).ok().and_then(|bit| Metric::ALL.get(bit));
            let Some(metric) = known else { continue };
            let steps = self.readings.get(*metric).unwrap_or(0).checked_add(difference);
            let steps = steps.filter(|steps| steps.unsigned_abs() <= Metric::MAX_STEPS.unsigned_abs());
            let steps = steps.ok_or(BatchError::Malformed("a value is too large"))?;
            readings.set(*metric, Some(steps));
            self.readings.set(*metric, Some(steps));
        }
        self.sample = Some((number, age_s));
        Ok(Sample { number, age_s, readings })
    }
}

/// A number for the wire; counts and ages never come near the largest one.
fn small(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::tests::readings;

    fn batch() -> impl Strategy<Value = Batch> {
        let one = (1..1000_u64, 0..5000_u64, readings());
        let samples = prop::collection::vec(one, 0..Batch::MAX_SAMPLES);
        (any::<u32>(), 0..u64::from(u32::MAX), 0..1_000_000_u64, samples).prop_map(
            |(epoch, dropped, newest_age, steps)| {
                let (mut number, mut age_s) = (0, newest_age + steps.iter().map(|(_, passed, _)| passed).sum::<u64>());
                let samples = steps.into_iter().map(|(more, passed, readings)| {
                    number += more;
                    age_s -= passed;
                    Sample { number, age_s, readings }
                });
                Batch { epoch, dropped, samples: samples.collect() }
            },
        )
    }

    fn typical(count: u32) -> Batch {
        let samples = (0..count).map(|n| {
            let n = i64::from(n);
            let readings = Readings::default()
                .with(Metric::CpuLoad, 120 + 37 * (n % 3))
                .with(Metric::MemoryUsed, 431 + n % 2)
                .with(Metric::StorageUsed, 205)
                .with(Metric::Temperature, 482 - n % 4)
                .with(Metric::NetworkReceived, 900 + 211 * (n % 5))
                .with(Metric::NetworkSent, 300 + 170 * (n % 2))
                .with(Metric::Boots, 12)
                .with(Metric::UncleanBoots, 1)
                .with(Metric::AgentCrashes, 0)
                .with(Metric::AppExits, 3);
            Sample {
                number: 70_000 + n.unsigned_abs(),
                age_s: 60 * u64::from(count - 1) - 60 * n.unsigned_abs(),
                readings,
            }
        });
        Batch { epoch: 0xdead_beef, dropped: 0, samples: samples.collect() }
    }

    #[test]
    fn the_bytes_of_version_1_do_not_move() {
        let readings = Readings::default().with(Metric::CpuLoad, 500).with(Metric::Temperature, -15);
        let samples = vec![
            Sample { number: 7, age_s: 90, readings },
            Sample { number: 9, age_s: 30, readings: readings.with(Metric::CpuLoad, 501) },
        ];
        let bytes = Batch { epoch: 5, dropped: 1, samples }.encode();
        assert_eq!(bytes, b"\x84\x01\x05\x01\x8a\x07\x18\x5a\x09\x19\x01\xf4\x2e\x02\x18\x3c\x09\x01\x00");
        assert_eq!(Batch::decode(&bytes).unwrap().encode(), bytes);
    }

    #[test]
    fn a_sample_of_every_metric_takes_no_more_bytes_than_the_pace_is_made_for() {
        let one = typical(1).encode().len();
        let many = typical(101).encode().len();
        let each = (many - one).div_ceil(100);
        assert!(u64::try_from(each).unwrap() <= super::super::Pace::SAMPLE_BYTES, "{each} bytes");
    }

    #[test]
    fn a_metric_of_a_newer_agent_is_passed_over_and_what_breaks_a_rule_is_refused() {
        // Bit 40 is no metric that is known; its value 3 stands behind that of `boots`.
        let newer = b"\x84\x01\x05\x00\x85\x01\x00\x1b\x00\x00\x01\x00\x00\x00\x00\x40\x02\x03";
        let read = Batch::decode(newer).unwrap();
        assert_eq!(read.samples[0].readings, Readings::default().with(Metric::Boots, 2));
        for bad in [
            &b""[..],
            b"\x83\x01\x05\x00",                                                     // three
            b"\x84\x02\x05\x00\x80",                                                 // version 2
            b"\x84\x01\x05\x00\x9f\xff",                                             // no length
            b"\x84\x01\x05\x00\x80\x00",                                             // bytes behind
            b"\x84\x01\x05\x00\x82\x01\x00",                                         // breaks off
            b"\x84\x01\x05\x00\x83\x20\x00\x00",                                     // negative number
            b"\x84\x01\x05\x00\x86\x01\x05\x00\x00\x01\x00",                         // one number twice
            b"\x84\x01\x05\x00\x86\x01\x05\x00\x01\x06\x00",                         // younger than now
            b"\x84\x01\x05\x00\x9b\xff\xff\xff\xff\xff\xff\xff\xff",                 // a length that is a lie
            b"\x84\x01\x05\x00\x84\x01\x00\x01\x1b\x7f\xff\xff\xff\xff\xff\xff\xff", // a value beyond all
        ] {
            assert!(Batch::decode(bad).is_err(), "{bad:02x?}");
        }
        assert_eq!(Batch::decode(&[0; Batch::MAX_BYTES + 1]), Err(BatchError::TooLong));
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_as_written(batch in batch()) {
            prop_assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(batch) = Batch::decode(&bytes) {
                prop_assert!(batch.samples.len() <= bytes.len());
                prop_assert!(batch.samples.is_sorted_by(|a, b| a.number < b.number && a.age_s >= b.age_s));
            }
        }

        #[test]
        fn a_damaged_batch_is_read_or_refused(batch in batch(), at: usize, with: u8) {
            let mut bytes = batch.encode();
            let length = bytes.len();
            bytes[at % length] = with;
            if let Ok(read) = Batch::decode(&bytes) {
                prop_assert!(read.samples.len() <= length);
            }
        }
    }
}
