//! For how long a point of a time series stands.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_stands_for_longer_than_the_one_before() {
        assert!(MetricStep::ALL.is_sorted_by_key(|step| step.seconds()));
    }
}
