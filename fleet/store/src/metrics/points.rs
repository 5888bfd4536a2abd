//! Makes coarser points of samples and of finer points. Functions of values; what they answer is the same however it was put together, but for the
//! rounding of means.

use protocol_types::metrics::{Metric, Readings};

/// What one metric did in some time, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Samples that had a value; at least one.
    pub(crate) count: u32,
    pub(crate) sum: i128,
    pub(crate) least: i64,
    pub(crate) most: i64,
    pub(crate) last: i64,
}

impl Summary {
    const fn of(steps: i64) -> Self {
        Self { count: 1, sum: steps as i128, least: steps, most: steps, last: steps }
    }

    /// The nearest number of steps.
    pub(crate) fn mean(&self) -> i64 {
        let count = i128::from(self.count.max(1));
        let doubled = self.sum.saturating_mul(2).saturating_add(count);
        let mean = doubled.div_euclid(count * 2);
        i64::try_from(mean).unwrap_or(self.last)
    }

    /// This and what came after it.
    fn then(self, later: Self) -> Self {
        Self {
            count: self.count.saturating_add(later.count),
            sum: self.sum.saturating_add(later.sum),
            least: self.least.min(later.least),
            most: self.most.max(later.most),
            last: later.last,
        }
    }
}

/// What all metrics did in some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// When that time begins, in Unix seconds.
    pub(crate) time: u64,
    pub(crate) of: [Option<Summary>; Metric::COUNT],
}

impl Point {
    /// One sample.
    pub(crate) fn sample(time: u64, readings: &Readings) -> Self {
        let mut of = [None; Metric::COUNT];
        for (metric, steps) in readings.iter() {
            if let Some(place) = of.get_mut(metric.index()) {
                *place = Some(Summary::of(steps));
            }
        }
        Self { time, of }
    }

    /// What a metric did.
    pub(crate) fn get(&self, metric: Metric) -> Option<Summary> {
        self.of.get(metric.index()).copied().flatten()
    }

    fn then(&mut self, later: &Self) {
        for (before, after) in self.of.iter_mut().zip(later.of) {
            *before = match (*before, after) {
                (Some(before), Some(after)) => Some(before.then(after)),
                (before, after) => after.or(before),
            };
        }
    }
}

/// The beginning of the time of `step` seconds that a moment lies in; the moment itself for samples.
pub(crate) const fn begin(time: u64, step: u64) -> u64 {
    match time.checked_rem(step) {
        Some(rest) => time - rest,
        None => time,
    }
}

/// Points of `step` seconds of finer ones, which are in the order of their times.
pub(crate) fn condensed(finer: impl IntoIterator<Item = Point>, step: u64) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for point in finer {
        let time = begin(point.time, step);
        match points.last_mut() {
            Some(last) if last.time == time => last.then(&point),
            Some(_) | None => points.push(Point { time, ..point }),
        }
    }
    points
}

/// Points in groups of those that lie in the same time of `length` seconds.
pub(crate) fn grouped(points: Vec<Point>, length: u64) -> Vec<Vec<Point>> {
    let mut groups: Vec<Vec<Point>> = Vec::new();
    for point in points {
        match groups.last_mut() {
            Some(group)
                if group.first().is_some_and(|first| begin(first.time, length) == begin(point.time, length)) =>
            {
                group.push(point);
            }
            Some(_) | None => groups.push(vec![point]),
        }
    }
    groups
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Samples in the order of their times.
    pub(crate) fn samples() -> impl Strategy<Value = Vec<Point>> {
        let value = prop::option::of(-2000..100_000_i64);
        let one = (1..900_u64, prop::collection::vec(value, Metric::COUNT));
        (1_700_000_000..1_800_000_000_u64, prop::collection::vec(one, 0..200)).prop_map(|(start, steps)| {
            let mut time = start;
            let samples = steps.into_iter().map(|(passed, values)| {
                time += passed;
                let mut readings = Readings::default();
                Metric::ALL.iter().zip(values).for_each(|(metric, value)| readings.set(*metric, value));
                Point::sample(time, &readings)
            });
            samples.collect()
        })
    }

    fn temperatures(of: &[(u64, i64)]) -> Vec<Point> {
        of.iter()
            .map(|(time, steps)| Point::sample(*time, &Readings::default().with(Metric::Temperature, *steps)))
            .collect()
    }

    #[test]
    fn a_point_says_what_its_samples_said() {
        let points = condensed(temperatures(&[(600, 400), (700, 500), (899, 451), (900, 100)]), 300);
        let first = Summary { count: 3, sum: 1351, least: 400, most: 500, last: 451 };
        assert_eq!((points.len(), points[0].time, points[0].get(Metric::Temperature)), (2, 600, Some(first)));
        assert_eq!((first.mean(), points[0].get(Metric::CpuLoad), points[1].time), (450, None, 900));
        assert_eq!(Summary { count: 2, sum: -3, least: -2, most: -1, last: -1 }.mean(), -1, "half is rounded up");
    }

    proptest! {
        #[test]
        fn an_hour_made_of_five_minutes_is_the_hour_made_of_samples(samples in samples()) {
            let direct = condensed(samples.clone(), 3600);
            let by_way = condensed(condensed(samples, 300), 3600);
            prop_assert_eq!(direct, by_way);
        }

        #[test]
        fn nothing_is_lost_and_means_lie_between_the_least_and_the_most(samples in samples(), step in 1..10_000_u64) {
            let points = condensed(samples.clone(), step);
            for metric in Metric::ALL {
                let count = |points: &[Point]| points.iter().filter_map(|p| p.get(*metric)).map(|s| u64::from(s.count)).sum::<u64>();
                prop_assert_eq!(count(&points), count(&samples));
                for summary in points.iter().filter_map(|point| point.get(*metric)) {
                    prop_assert!(summary.least <= summary.mean() && summary.mean() <= summary.most);
                    prop_assert!(summary.least <= summary.last && summary.last <= summary.most);
                }
            }
            prop_assert!(points.iter().zip(points.iter().skip(1)).all(|(a, b)| a.time < b.time));
            let groups = grouped(points.clone(), step * 12);
            prop_assert_eq!(groups.concat(), points);
        }
    }
}
