//! The time of a check, and what an operator should hear of although a release may be installed. Never looks at a clock.

use std::{fmt, time::Duration};

use protocol_types::UnixSeconds;

/// The time of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What the device's clock says.
    pub now: UnixSeconds,
    /// What the build or the factory knew: no check uses an earlier time.
    pub not_before: UnixSeconds,
}

/// So far ahead of every known time that a clock is rather broken than the device was off: 25 years.
const IMPLAUSIBLY_AHEAD: Duration = Duration::from_secs(25 * 365 * 86_400);

impl Clock {
    /// The time to judge by when `seen` is the latest time that was proven.
    pub(super) fn judged(self, seen: UnixSeconds) -> UnixSeconds {
        self.now.max(self.not_before).max(seen)
    }

    /// What is odd about the clock.
    pub(super) fn warning(self, seen: UnixSeconds) -> Option<Warning> {
        let (now, known) = (self.now, self.not_before.max(seen));
        if now < known {
            return Some(Warning::ClockBehind { now, used: known });
        }
        (now > known.plus(IMPLAUSIBLY_AHEAD)).then_some(Warning::ClockAhead { now, known })
    }
}

/// Something that an operator should hear of although the release may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The service's newest timestamp had expired: it may be frozen, or the device held away from news.
    TimestampExpired {
        /// When it expired.
        expired: UnixSeconds,
    },
    /// The service's newest snapshot had expired.
    SnapshotExpired {
        /// When it expired.
        expired: UnixSeconds,
    },
    /// The clock lies before a time that had certainly passed, so the check used that time.
    ClockBehind {
        /// What the clock says.
        now: UnixSeconds,
        /// What was used.
        used: UnixSeconds,
    },
    /// The clock lies so far ahead of everything known that it is probably wrong.
    ClockAhead {
        /// What the clock says.
        now: UnixSeconds,
        /// The latest time that is certain.
        known: UnixSeconds,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimestampExpired { expired } => write!(f, "the newest timestamp expired at {expired}"),
            Self::SnapshotExpired { expired } => write!(f, "the newest snapshot expired at {expired}"),
            Self::ClockBehind { now, used } => write!(f, "the clock says {now}, {used} was used instead"),
            Self::ClockAhead { now, known } => {
                write!(f, "the clock says {now}, far ahead of {known}, the latest known time")
            }
        }
    }
}
