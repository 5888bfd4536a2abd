//! What devices measure of themselves: each metric with its number on the wire, its name, its unit and its resolution. Never measures.

mod batch;
mod pace;
mod step;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use batch::{Batch, BatchError, Sample};
pub use pace::Pace;
pub use step::MetricStep;

macro_rules! metrics {
    ($($(#[$doc:meta])* $variant:ident = $text:literal in $unit:literal by $per_unit:literal,)+) => {
        /// What is measured. The order is the numbers on the wire and in stored time series: new ones come last.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Metric {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
        }

        impl Metric {
            /// All metrics, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric as people write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// In what it is measured, as SenML writes units (RFC 8428, section 12.1).
            pub const fn unit(self) -> &'static str {
                match self { $(Self::$variant => $unit),+ }
            }

            /// Steps in one unit: values are whole numbers of steps wherever they are sent, stored or compared.
            pub const fn steps_per_unit(self) -> i32 {
                match self { $(Self::$variant => $per_unit),+ }
            }
        }
    };
}

metrics! {
    /// Share of the time in which the processors worked, over all of them; 1 is all the time.
    CpuLoad = "cpu.load" in "/" by 1000,
    /// Share of the memory that is in use and cannot be given back at once.
    MemoryUsed = "memory.used" in "/" by 1000,
    /// Share of the storage for state that is in use.
    StorageUsed = "storage.used" in "/" by 1000,
    /// Degrees Celsius of the hottest thermal zone.
    Temperature = "temperature" in "Cel" by 10,
    /// Bytes received in a second over the network.
    NetworkReceived = "network.received" in "B/s" by 1,
    /// Bytes sent in a second over the network.
    NetworkSent = "network.sent" in "B/s" by 1,
    /// How often the system was started.
    Boots = "boots" in "count" by 1,
    /// How often of those nobody had stopped it before: a power cut, a crash of the kernel, a watchdog.
    UncleanBoots = "boots.unclean" in "count" by 1,
    /// How often the agent ended without being asked to while the system went on.
    AgentCrashes = "agent.crashes" in "count" by 1,
    /// How often applications ended by themselves.
    AppExits = "apps.exits" in "count" by 1,
}

/// A text that names no metric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no metric; there are {all}", all = Metric::names())]
pub struct UnknownMetric(String);

impl Metric {
    /// The largest amount of steps that is taken for a value, up or down: it is exact as a floating point number, and sums of a billion of
    /// them fit.
    pub const MAX_STEPS: i64 = 1_000_000_000_000_000;

    /// The place in lists that have one for each metric.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// So many steps in the unit of the metric.
    #[expect(clippy::cast_precision_loss, reason = "steps are kept below the size up to which this is exact")]
    pub fn real(self, steps: i64) -> f64 {
        steps as f64 / f64::from(self.steps_per_unit())
    }

    /// The nearest number of steps; none for what is no number or beyond [`Metric::MAX_STEPS`].
    #[expect(clippy::cast_possible_truncation, reason = "the range is looked at before")]
    #[expect(clippy::cast_precision_loss, reason = "the bound is exact")]
    pub fn steps(self, real: f64) -> Option<i64> {
        let steps = (real * f64::from(self.steps_per_unit())).round();
        (steps.abs() <= Self::MAX_STEPS as f64).then_some(steps as i64)
    }

    /// The names of all metrics, for people.
    pub fn names() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|metric| metric.as_str()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Metric {
    type Err = UnknownMetric;
    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        let found = Self::ALL.iter().copied().find(|metric| metric.as_str() == text);
        found.ok_or_else(|| UnknownMetric(text.chars().take(40).collect()))
    }
}

/// What was measured at one moment, in steps; absent where the device could not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings([Option<i64>; Metric::COUNT]);

impl Readings {
    /// The value of a metric.
    pub fn get(&self, metric: Metric) -> Option<i64> {
        self.0.get(metric.index()).copied().flatten()
    }

    /// Takes a value; one beyond [`Metric::MAX_STEPS`] counts as not measured.
    pub fn set(&mut self, metric: Metric, steps: Option<i64>) {
        if let Some(place) = self.0.get_mut(metric.index()) {
            *place = steps.filter(|steps| steps.unsigned_abs() <= Metric::MAX_STEPS.unsigned_abs());
        }
    }

    /// These readings with one more value.
    #[must_use]
    pub fn with(mut self, metric: Metric, steps: i64) -> Self {
        self.set(metric, Some(steps));
        self
    }

    /// What was measured, in the order of the numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, i64)> {
        Metric::ALL.iter().zip(self.0).filter_map(|(metric, steps)| Some((*metric, steps?)))
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn readings() -> impl Strategy<Value = Readings> {
        let one = prop::option::of(-Metric::MAX_STEPS..=Metric::MAX_STEPS);
        prop::collection::vec(one, Metric::COUNT).prop_map(|values| {
            let mut readings = Readings::default();
            Metric::ALL.iter().zip(values).for_each(|(metric, steps)| readings.set(*metric, steps));
            readings
        })
    }

    #[test]
    fn the_numbers_of_released_metrics_do_not_move() {
        let names: Vec<&str> = Metric::ALL.iter().map(|metric| metric.as_str()).collect();
        let released = [
            "cpu.load",
            "memory.used",
            "storage.used",
            "temperature",
            "network.received",
            "network.sent",
            "boots",
            "boots.unclean",
            "agent.crashes",
            "apps.exits",
        ];
        assert_eq!(names, released);
        assert!(Metric::ALL.iter().enumerate().all(|(number, metric)| metric.index() == number));
        assert_eq!(("cpu.load".parse(), "cpu".parse::<Metric>().is_err()), (Ok(Metric::CpuLoad), true));
    }

    #[test]
    fn a_value_is_a_whole_number_of_steps_of_its_metric() {
        assert_eq!((Metric::CpuLoad.steps(0.9), Metric::CpuLoad.real(900)), (Some(900), 0.9));
        assert_eq!((Metric::Temperature.steps(-40.04), Metric::Temperature.real(-400)), (Some(-400), -40.0));
        for odd in [f64::NAN, f64::INFINITY, -1e300] {
            assert_eq!(Metric::NetworkSent.steps(odd), None);
        }
        assert_eq!(Readings::default().with(Metric::Boots, i64::MIN), Readings::default());
    }

    proptest! {
        #[test]
        fn every_number_of_steps_is_found_again(steps in -Metric::MAX_STEPS..=Metric::MAX_STEPS, at in 0..Metric::COUNT) {
            let metric = Metric::ALL[at];
            prop_assert_eq!(metric.steps(metric.real(steps)), Some(steps));
        }
    }
}
