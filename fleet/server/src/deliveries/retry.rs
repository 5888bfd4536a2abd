//! What becomes of a try that failed: a function of the answer and of the tries before. Never waits and never sends.

use fleet_store::{AfterFailure, FailedTry};
use protocol_types::UnixSeconds;

/// How often an event is tried and how long one waits at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) tries: u32,
    pub(super) longest_wait_s: u64,
}

/// What was tried before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Before {
    /// Tries of this event.
    pub(super) tries: u32,
    /// Tries in a row that have failed, of whatever event.
    pub(super) failures: u32,
}

/// Why a try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In one sentence.
    pub(super) reason: String,
    /// The receiver wants nothing more (HTTP status 410).
    pub(super) gone: bool,
    /// Seconds that the receiver asks to be left alone (header `Retry-After`).
    pub(super) retry_after_s: Option<u64>,
}

/// What to note of a try of the event at this position that failed now; `roll` is a random number.
pub(super) fn after_failure(
    (event, before): (u64, Before),
    failure: Failure,
    limits: Limits,
    now: UnixSeconds,
    roll: u64,
) -> FailedTry {
    let (tries, failures) = (before.tries.saturating_add(1), before.failures.saturating_add(1));
    let then = if failure.gone {
        AfterFailure::Pause
    } else if tries >= limits.tries {
        AfterFailure::DeadLetter
    } else {
        AfterFailure::Retry
    };
    let wait = wait_s(failures, failure.retry_after_s, limits.longest_wait_s, roll);
    let next_try = UnixSeconds(now.0.saturating_add(wait));
    FailedTry { event, tries, failures, reason: failure.reason, next_try, then }
}

/// A second, doubled with each failure in a row up to the longest wait, of which up to a half is left to chance; never less than the
/// receiver asks for, as long as that is not more than the longest wait.
fn wait_s(failures: u32, asked_s: Option<u64>, longest_s: u64, roll: u64) -> u64 {
    let longest = longest_s.max(1);
    let full = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX).min(longest);
    let wait = full - roll % (full / 2 + 1);
    wait.max(asked_s.unwrap_or(0).min(longest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(gone: bool, retry_after_s: Option<u64>) -> Failure {
        Failure { reason: "the receiver answered 500".to_owned(), gone, retry_after_s }
    }

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    proptest! {
        #[test]
        fn waits_grow_to_the_ceiling_and_never_beyond_it_nor_to_nothing(
            failures in 0..200_u32, asked in prop::option::of(any::<u64>()), longest in 1..100_000_u64, roll in any::<u64>(),
        ) {
            let before = Before { tries: 0, failures };
            let limits = Limits { tries: 100, longest_wait_s: longest };
            let noted = after_failure((7, before), failure(false, asked), limits, NOW, roll);
            let wait = noted.next_try.0 - NOW.0;
            let full = if failures > 62 { longest } else { (1_u64 << failures).min(longest) };
            prop_assert!(wait >= 1 && wait <= longest, "{wait}");
            prop_assert!(wait >= full - full / 2, "{wait} of {full}");
            prop_assert!(wait >= asked.unwrap_or(0).min(longest), "{wait}, asked {asked:?}");
        }

        #[test]
        fn an_event_is_tried_so_many_times_and_no_more(tries in 1..50_u32, rolls in prop::collection::vec(any::<u64>(), 50)) {
            let limits = Limits { tries, longest_wait_s: 60 };
            let (mut before, mut tried) = (Before::default(), 0);
            for roll in rolls {
                let noted = after_failure((7, before), failure(false, None), limits, NOW, roll);
                tried += 1;
                if noted.then == AfterFailure::DeadLetter {
                    break;
                }
                before = Before { tries: noted.tries, failures: noted.failures };
            }
            prop_assert_eq!(tried, tries);
        }
    }

    #[test]
    fn a_receiver_that_wants_nothing_more_is_left_alone() {
        let limits = Limits { tries: 1, longest_wait_s: 60 };
        let noted = after_failure((7, Before::default()), failure(true, None), limits, NOW, 0);
        assert_eq!(noted.then, AfterFailure::Pause, "and its event is no dead letter");
    }
}
