//! Which of two notifications is newer where the network may reorder them (RFC 7641 section 3.4).
//! Streams keep their order, so over TCP and TLS nobody asks (RFC 8323 section 7.1).

use std::time::Duration;

use super::{Message, OptionNumber};
use crate::time::Millis;

/// Sequence numbers have 24 bits.
const HALF: u32 = 1 << 23;
const AGE_THAT_SETTLES_IT: Duration = Duration::from_secs(128);

/// What the Observe option of a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// To be notified.
    Begin,
    /// Not to be notified any more.
    End,
}

impl Interest {
    /// What a request asks for; `None` if it has no valid Observe option.
    pub fn of(request: &Message) -> Option<Self> {
        match request.options.uint(OptionNumber::OBSERVE)? {
            0 => Some(Self::Begin),
            1 => Some(Self::End),
            _ => None,
        }
    }
}

/// The sequence number of a notification and when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The Observe option's value.
    pub sequence: u32,
    /// When it arrived.
    pub at: Millis,
}

impl Arrival {
    /// Whether this one is newer than `older`, by number or because more than 128 seconds lie between them.
    pub fn is_newer_than(&self, older: &Self) -> bool {
        let (v1, v2) = (older.sequence, self.sequence);
        (v1 < v2 && v2 - v1 < HALF) || (v1 > v2 && v1 - v2 > HALF) || self.at.since(older.at) > AGE_THAT_SETTLES_IT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_wraps_and_time_settles_what_numbers_cannot() {
        let at = |sequence, ms| Arrival { sequence, at: Millis(ms) };
        assert!(at(2, 0).is_newer_than(&at(1, 0)));
        assert!(!at(1, 0).is_newer_than(&at(2, 0)) && !at(1, 0).is_newer_than(&at(1, 0)));
        assert!(at(3, 0).is_newer_than(&at(0xff_fffe, 0)), "24 bits wrap");
        assert!(!at(0xff_fffe, 0).is_newer_than(&at(3, 0)));
        assert!(!at(1, 128_000).is_newer_than(&at(2, 0)) && at(1, 128_001).is_newer_than(&at(2, 0)));
    }
}
