//! For how long a point of a time series stands.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::words::words;

words! {
    /// For how long a point of a time series stands; the finest first.
    MetricStep {
        /// A sample.
        Sample = "sample",
        /// Five minutes.
        FiveMinutes = "five_minutes",
        /// An hour.
        Hour = "hour",
    }
}

impl MetricStep {
    /// The seconds; none for a sample.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Sample => 0,
            Self::FiveMinutes => 5 * 60,
            Self::Hour => 60 * 60,
        }
    }
}

/// A text that is no step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step is sample, five_minutes or hour")]
pub struct UnknownMetricStep;

impl FromStr for MetricStep {
    type Err = UnknownMetricStep;
    fn from_str(text: &str) -> Result<Self, UnknownMetricStep> {
        Self::parse(text).ok_or(UnknownMetricStep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_read_as_it_is_written_and_stands_for_longer_than_the_one_before() {
        for step in MetricStep::ALL {
            assert_eq!(step.as_str().parse(), Ok(*step));
        }
        assert!(MetricStep::ALL.is_sorted_by_key(|step| step.seconds()));
        assert_eq!("minute".parse::<MetricStep>(), Err(UnknownMetricStep));
    }
}
