//! Pieces of time series as bytes: a CBOR array of small differences (`docs/formats/metrics.md`). What is read is what this program wrote; damage
//! is an error and never a panic.

use minicbor::{Decoder, Encoder};
use protocol_types::metrics::{Metric, Readings};

use super::points::{Point, Summary};
use crate::StoreError;

const VERSION: u64 = 1;

/// What numbers are counted from: those of the same metric before.
struct Before([i64; Metric::COUNT]);

impl Before {
    const fn new() -> Self {
        Self([0; Metric::COUNT])
    }

    fn take(&mut self, metric: Metric, steps: i64) -> i64 {
        let place = self.0.get_mut(metric.index());
        place.map_or(steps, |before| steps - std::mem::replace(before, steps))
    }

    fn give(&mut self, metric: Metric, difference: i64) -> Option<i64> {
        let place = self.0.get_mut(metric.index())?;
        *place = place.checked_add(difference)?;
        Some(*place)
    }
}

/// Writes the samples of one report.
pub(crate) fn write_samples(samples: &[(u64, Readings)]) -> Vec<u8> {
    let (mut numbers, mut before, mut time) = (Vec::new(), Before::new(), 0);
    for (at, readings) in samples {
        numbers.extend([number(at - time), mask(readings.iter().map(|(metric, _)| metric))]);
        numbers.extend(readings.iter().map(|(metric, steps)| before.take(metric, steps)));
        time = *at;
    }
    write(&numbers)
}

/// Reads the samples of one report.
pub(crate) fn read_samples(bytes: &[u8]) -> Result<Vec<Point>, StoreError> {
    let mut numbers = Numbers::read(bytes)?;
    let (mut samples, mut before, mut time) = (Vec::new(), Before::new(), 0_u64);
    while let Some(passed) = numbers.0.next() {
        time = later(time, passed)?;
        let mut readings = Readings::default();
        for metric in numbers.metrics()? {
            readings.set(metric, Some(before.give(metric, numbers.next()?).ok_or(DAMAGED)?));
        }
        samples.push(Point::sample(time, &readings));
    }
    Ok(samples)
}

/// Writes points.
pub(crate) fn write_points(points: &[Point]) -> Vec<u8> {
    let (mut numbers, mut before, mut time) = (Vec::new(), Before::new(), 0);
    for point in points {
        let summaries: Vec<(Metric, Summary)> =
            Metric::ALL.iter().filter_map(|metric| Some((*metric, point.get(*metric)?))).collect();
        let those = |is_it: fn(&Summary, u32) -> bool, count| {
            mask(summaries.iter().filter(|(_, summary)| is_it(summary, count)).map(|(metric, _)| *metric))
        };
        let count = summaries.iter().map(|(_, summary)| summary.count).max().unwrap_or(0);
        let moved = |summary: &Summary, _| summary.least != summary.most;
        let rarer = |summary: &Summary, count| summary.count != count;
        numbers.extend([number(point.time - time), i64::from(count)]);
        numbers.extend([those(|_, _| true, count), those(moved, count), those(rarer, count)]);
        for (metric, summary) in &summaries {
            let mean = summary.mean();
            if rarer(summary, count) {
                numbers.push(i64::from(summary.count));
            }
            numbers.push(before.take(*metric, mean));
            if moved(summary, count) {
                numbers.extend([mean - summary.least, summary.most - mean, summary.last - mean]);
            }
        }
        time = point.time;
    }
    write(&numbers)
}

/// Reads points.
pub(crate) fn read_points(bytes: &[u8]) -> Result<Vec<Point>, StoreError> {
    let mut numbers = Numbers::read(bytes)?;
    let (mut points, mut before, mut time) = (Vec::new(), Before::new(), 0_u64);
    while let Some(passed) = numbers.0.next() {
        time = later(time, passed)?;
        let count = numbers.count()?;
        let (all, moved, rarer) = (numbers.metrics()?, numbers.metrics()?, numbers.metrics()?);
        let mut point = Point { time, of: [None; Metric::COUNT] };
        for metric in all {
            let count = if rarer.contains(&metric) { numbers.count()? } else { count };
            let mean = before.give(metric, numbers.next()?).ok_or(DAMAGED)?;
            let mut add = |sign: i64| {
                let difference = numbers.next()?.checked_mul(sign).ok_or(DAMAGED)?;
                mean.checked_add(difference).ok_or(DAMAGED)
            };
            let (least, most, last) =
                if moved.contains(&metric) { (add(-1)?, add(1)?, add(1)?) } else { (mean, mean, mean) };
            let sum = i128::from(mean) * i128::from(count);
            if let Some(place) = point.of.get_mut(metric.index()) {
                *place = Some(Summary { count, sum, least, most, last });
            }
        }
        points.push(point);
    }
    Ok(points)
}

const DAMAGED: StoreError = StoreError::Damaged { table: "metric_chunks", column: "chunk" };

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn later(time: u64, passed: i64) -> Result<u64, StoreError> {
    u64::try_from(passed).ok().and_then(|passed| time.checked_add(passed)).ok_or(DAMAGED)
}

fn mask(metrics: impl Iterator<Item = Metric>) -> i64 {
    metrics.fold(0, |mask, metric| mask | (1 << metric.index()))
}

fn write(numbers: &[i64]) -> Vec<u8> {
    let write = || -> Result<Vec<u8>, minicbor::encode::Error<std::convert::Infallible>> {
        let mut out = Encoder::new(Vec::with_capacity(8 + 2 * numbers.len()));
        out.array(2)?.u64(VERSION)?.array(u64::try_from(numbers.len()).unwrap_or(u64::MAX))?;
        for number in numbers {
            out.i64(*number)?;
        }
        Ok(out.into_writer())
    };
    // Writing to memory does not fail.
    write().unwrap_or_default()
}

struct Numbers(std::vec::IntoIter<i64>);

impl Numbers {
    fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut decoder = Decoder::new(bytes);
        let head = (decoder.array().ok().flatten(), decoder.u64().ok());
        let (Some(length), true) = (decoder.array().ok().flatten(), head == (Some(2), Some(VERSION))) else {
            return Err(DAMAGED);
        };
        let mut numbers = Vec::new();
        for _ in 0..length {
            numbers.push(decoder.i64().map_err(|_| DAMAGED)?);
        }
        if decoder.position() == bytes.len() { Ok(Self(numbers.into_iter())) } else { Err(DAMAGED) }
    }

    fn next(&mut self) -> Result<i64, StoreError> {
        self.0.next().ok_or(DAMAGED)
    }

    fn count(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.next()?).map_err(|_| DAMAGED)
    }

    fn metrics(&mut self) -> Result<Vec<Metric>, StoreError> {
        let mask = self.next()?;
        let named: Vec<Metric> =
            Metric::ALL.iter().copied().filter(|metric| (mask >> metric.index()) & 1 == 1).collect();
        // A metric of a newer version is not there to be shown, and what follows it could not be told apart.
        if self::mask(named.iter().copied()) == mask { Ok(named) } else { Err(DAMAGED) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::points::condensed, *};
    use crate::metrics::points::tests::samples;

    fn readings(sample: &Point) -> (u64, Readings) {
        let mut readings = Readings::default();
        Metric::ALL.iter().for_each(|metric| readings.set(*metric, sample.get(*metric).map(|summary| summary.last)));
        (sample.time, readings)
    }

    #[test]
    fn the_bytes_of_version_1_do_not_move() {
        let first = Readings::default().with(Metric::CpuLoad, 500).with(Metric::Boots, 3);
        let bytes = write_samples(&[(100, first), (160, first.with(Metric::CpuLoad, 499))]);
        assert_eq!(bytes, b"\x82\x01\x88\x18\x64\x18\x41\x19\x01\xf4\x03\x18\x3c\x18\x41\x20\x00");
        let points = condensed(read_samples(&bytes).unwrap(), 300);
        let bytes = write_points(&points);
        // Time, count, which metrics, which moved, which were rarer; mean and what the rest differs by.
        assert_eq!(bytes, b"\x82\x01\x8a\x00\x02\x18\x41\x01\x00\x19\x01\xf4\x01\x00\x20\x03");
        assert_eq!(write_points(&read_points(&bytes).unwrap()), bytes);
    }

    #[test]
    fn bytes_that_this_version_does_not_write_are_damage() {
        for bad in [
            &b""[..],
            b"\x82\x02\x80",
            b"\x82\x01\x80\x00",
            b"\x82\x01\x81\x01",
            b"\x82\x01\x83\x01\x01\x19",
            b"\x82\x01\x82\x01\x1b\x00\x00\x01\x00\x00\x00\x00\x00",
            b"\x82\x01\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(read_samples(bad).is_err() && read_points(bad).is_err(), "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn samples_read_back_as_written(samples in samples()) {
            let written: Vec<_> = samples.iter().map(readings).collect();
            prop_assert_eq!(read_samples(&write_samples(&written)).unwrap(), samples);
        }

        #[test]
        fn points_read_back_as_written_but_for_the_rounding_of_means(samples in samples(), step in 1..4000_u64) {
            let points = condensed(samples, step);
            let read = read_points(&write_points(&points)).unwrap();
            prop_assert_eq!(read.len(), points.len());
            for (read, point) in read.iter().zip(&points) {
                prop_assert_eq!(read.time, point.time);
                for metric in Metric::ALL {
                    let of = |point: &Point| point.get(*metric).map(|s| (s.count, s.mean(), s.least, s.most, s.last));
                    prop_assert_eq!(of(read), of(point));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), tail in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut framed = b"\x82\x01\x94".to_vec();
            framed.extend(tail);
            for bytes in [bytes, framed] {
                let _ends = (read_samples(&bytes).is_ok(), read_points(&bytes).is_ok());
            }
        }
    }
}
